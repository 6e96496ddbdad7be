"""Chooses precision, chunk length and batch so that a reading fits into memory, and says what to expect.

Decides with integers alone, so that it can be tried on a laptop for any card. A decision carries its reason.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medvl.planning.chunks import overlap_for
from medvl.planning.device import Device
from medvl.planning.memory import (
    GIB,
    DecodePath,
    Load,
    Memory,
    encoded_bytes,
    predict_memory,
    prefill_bytes,
    vision_bytes,
)
from medvl.planning.shape import PUBLISHED_SHAPES, ModelShape
from medvl.planning.speed import Amount, estimate_seconds
from medvl.settings import Decode, Precision

DEFAULT_CHUNK = 10  # pictures; ten of 512² are 2,560 vision tokens, well inside what the model was trained on
# Left free for what torch holds but has not handed out, in bytes and as a share of the memory. engine: with expandable
# segments, blocks of 20 MiB for each of three streams, and gaps between kept pictures; not measured yet. Without them
# it held 110 to 300 MiB more than its peaks of 17 to 32 GiB in bf16 on an H200. stock: its formula is coarser, too.
_MARGIN: dict[DecodePath, tuple[int, float]] = {"engine": (GIB // 8, 0.01), "stock": (0, 0.08), "cpu": (0, 0.08)}
_CLEARLY_FASTER = 0.9  # of the time in 8 bits, for bf16 to be chosen: 8 bits are what users expect
# Chunks at once, unless the user wishes more. engine: beyond, its kernels hold larger tiles than they were tuned for.
# stock, cpu: beyond, the time per chunk falls little, while a crash loses more.
_MOST_ROWS: dict[DecodePath, int] = {"engine": 32, "stock": 16, "cpu": 4}
_MOST_PATCHES_AT_ONCE = 5 * 1024  # five pictures of 512² keep a card busy; half of ten, so few are there to fill up
_MOST_KEPT_BYTES = 4 * GIB  # of encoded pictures: 500 of 512² for the 8B
_LOOK_NEW_TOKENS = 8  # {"answer": "yes"}
_EXPECTED_NEW_TOKENS = 150  # a chunk's usual reply; the cap is for the rare long one


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be read, as far as size matters."""

    view_slab_counts: tuple[int, ...]
    size_px: int
    text_tokens: int  # instruction, query and chat marks of one chunk
    label_tokens: int  # of one picture's label and marks
    new_tokens: int  # cap per chunk
    look_tokens: int = 0  # of one second look's prompt, pictures included; 0: none are taken
    look_vision_tokens: int = 0  # of its pictures alone


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user or the checkpoint asked for; None leaves the choice to the plan."""

    precision: Precision = "auto"
    chunk: int | None = None
    batch: int | None = None
    decode: Decode = "auto"
    trouble: str = ""  # why 8-bit and 4-bit weights cannot be loaded here, once the reader has said so


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do and what it will take."""

    precision: Precision
    precision_reason: str
    path: DecodePath
    chunk_length: int
    overlap: int
    batch: int
    pixels_at_once: int  # through the vision tower
    picture_cache_bytes: int  # of encoded pictures that stay on the device
    chunk_count: int
    picture_count: int  # pictures shown, overlaps counted twice
    tokens_per_chunk: int
    token_count: int
    memory: Memory
    available_bytes: int
    seconds: float
    fits: bool
    advice: str
    look_tokens: int = 0  # of one second look, of which there are as many as findings; not in token_count
    look_seconds: float = 0.0  # for one, likewise not in seconds


def plan_reading(shape: ModelShape, device: Device, work: Workload, wishes: Wishes, budget_bytes: int | None) -> Plan:
    """Choose the first precision that fits, then the longest wished chunk, then the largest batch.

    Left to the plan, the precision is int8: the default that costs half the memory of bf16. It becomes bf16 where the
    engine would be a tenth faster with it and all of the run fits, and nf4 where int8 does not fit.
    budget_bytes: plan for this much memory instead of what is free on the device.
    """
    path = decode_path(device, wishes.decode)
    held_bytes, share = _MARGIN[path]
    available = max(0, int((budget_bytes or device.free_bytes) * (1 - share)) - held_bytes)
    task = _Task(shape, device, work, wishes, path, available)
    candidates = _precisions(wishes)
    for precision, reason in candidates:
        if choice := task.fit(precision):
            return _weighed(task, _describe(task, precision, reason, choice))
    precision, reason = candidates[-1]
    if len(candidates) > 1:
        reason = f"{reason}, {_why_not_int8(task)}"
    return replace(_describe(task, precision, reason, (1, 1)), advice=_advice(task, precision))


def decode_path(device: Device, decode: Decode) -> DecodePath:
    """Return the way in which replies will be written."""
    if device.kind == "cpu":
        return "cpu"
    return "engine" if decode == "engine" or (decode == "auto" and device.runs_engine) else "stock"


def has_bitsandbytes() -> bool:
    """Tell whether the 8-bit and 4-bit library is installed, without importing it."""
    return importlib.util.find_spec("bitsandbytes") is not None


def chunk_count(slab_counts: Sequence[int], length: int) -> int:
    """Count the chunks that `plan_chunks` will make of each view."""
    overlap = overlap_for(length)
    return sum(max(1, -(-(count - overlap) // (length - overlap))) for count in slab_counts if count)


@dataclass(frozen=True, slots=True)
class _Task:
    """What a plan is made from."""

    shape: ModelShape
    device: Device
    work: Workload
    wishes: Wishes
    path: DecodePath
    available_bytes: int

    @property
    def wished_length(self) -> int:
        """Pictures per chunk, were there memory for it."""
        return min(self.wishes.chunk or DEFAULT_CHUNK, max((1, *self.work.view_slab_counts)))

    def wished_rows(self, length: int) -> int:
        """Chunks at once, were there memory for it."""
        most = self.wishes.batch or _MOST_ROWS[self.path]
        return max(1, min(most, chunk_count(self.work.view_slab_counts, length)))

    def load(self, precision: Precision, length: int, rows: int) -> Load:
        """Return what is read at once."""
        per_picture = self.shape.picture_tokens(self.work.size_px) + self.work.label_tokens
        prompt_tokens = self.work.text_tokens + length * per_picture
        load = Load(rows, length, prompt_tokens, self.work.new_tokens, self.work.size_px)
        return replace(load, pictures_at_once=self._pictures_at_once(precision, load))

    def _pictures_at_once(self, precision: Precision, load: Load) -> int:
        """Return how many pictures of a chunk go through the vision tower in the memory its prefill takes anyway."""
        if self.path != "engine":
            return load.rows * load.pictures
        one = vision_bytes(self.shape, precision, load, self.path)
        for_free = prefill_bytes(self.shape, precision, load, self.path) // one
        useful = _MOST_PATCHES_AT_ONCE // (load.size_px // self.shape.patch_px) ** 2
        return max(1, min(load.pictures, useful, for_free))

    def peak_bytes(self, precision: Precision, length: int, rows: int) -> int:
        """Predict the memory without encoded pictures kept for later."""
        return predict_memory(self.shape, precision, self.load(precision, length, rows), self.path).peak_bytes

    def fits(self, precision: Precision, length: int, rows: int = 1) -> bool:
        """Tell whether the memory suffices."""
        return self.peak_bytes(precision, length, rows) <= self.available_bytes

    def fit(self, precision: Precision) -> tuple[int, int] | None:
        """Return chunk length and rows, or None if not even one picture fits."""
        length = self.wished_length
        while length > 1 and not self.fits(precision, length):
            length -= 1
        if not self.fits(precision, length):
            return None
        rows = self.wished_rows(length)
        while rows > 1 and not self.fits(precision, length, rows):
            rows -= 1
        return length, rows

    def kept_pictures(self, peak_bytes: int) -> int:
        """Return how many encoded pictures can stay on the device in half of what peak_bytes leaves."""
        if self.path != "engine":
            return 0
        left = min(max(0, self.available_bytes - peak_bytes) // 2, _MOST_KEPT_BYTES)
        return min(left // encoded_bytes(self.shape, self.work.size_px), sum(self.work.view_slab_counts))


def _precisions(wishes: Wishes) -> list[tuple[Precision, str]]:
    """List what to try, in order of preference."""
    if wishes.precision != "auto":
        return [(wishes.precision, "as asked")]
    if trouble := _trouble(wishes):
        return [("bf16", f"8-bit weights cannot be loaded: {trouble}")]
    return [("int8", "8-bit weights, medvl's default"), ("nf4", "4-bit weights")]


def _trouble(wishes: Wishes) -> str:
    return wishes.trouble or ("" if has_bitsandbytes() else "bitsandbytes is not installed")


def _describe(task: _Task, precision: Precision, reason: str, choice: tuple[int, int]) -> Plan:
    length, rows = choice
    counts, load = task.work.view_slab_counts, task.load(precision, length, rows)
    load = replace(load, kept_pictures=task.kept_pictures(task.peak_bytes(precision, length, rows)))
    memory = predict_memory(task.shape, precision, load, task.path)
    chunks, overlap = chunk_count(counts, length), overlap_for(length)
    pictures = sum(counts) + overlap * (chunks - sum(1 for count in counts if count))
    vision_tokens = task.shape.picture_tokens(load.size_px)
    tokens = chunks * task.work.text_tokens + pictures * (vision_tokens + task.work.label_tokens)
    amount = Amount(
        chunks=chunks,
        rows=rows,
        tokens=tokens,
        prompt_tokens=load.prompt_tokens,
        vision_tokens=vision_tokens * (sum(counts) if load.kept_pictures else pictures),
        reply_tokens=min(_EXPECTED_NEW_TOKENS, load.new_tokens),
    )
    return Plan(
        precision=precision,
        precision_reason=reason,
        path=task.path,
        chunk_length=length,
        overlap=overlap,
        batch=rows,
        pixels_at_once=load.pictures_at_once * load.size_px**2,
        picture_cache_bytes=load.kept_pictures * encoded_bytes(task.shape, load.size_px),
        chunk_count=chunks,
        picture_count=pictures,
        tokens_per_chunk=load.prompt_tokens,
        token_count=tokens,
        memory=memory,
        available_bytes=task.available_bytes,
        seconds=estimate_seconds(task.shape, task.device, precision, amount, task.path),
        fits=memory.peak_bytes <= task.available_bytes,
        advice="",
        look_tokens=task.work.look_tokens,
        look_seconds=_look_seconds(task, precision),
    )


def _look_seconds(task: _Task, precision: Precision) -> float:
    """Estimate the time of one second look by itself; several at once take less each."""
    tokens = task.work.look_tokens
    amount = Amount(1, 1, tokens, tokens, task.work.look_vision_tokens, _LOOK_NEW_TOKENS)
    return estimate_seconds(task.shape, task.device, precision, amount, task.path) if tokens else 0.0


def _weighed(task: _Task, plan: Plan) -> Plan:
    """Return the plan, or a better one in bf16, with the numbers that spoke for it."""
    if task.wishes.precision != "auto" or _trouble(task.wishes):
        return plan
    if plan.precision == "nf4":
        smaller = _smaller_model(task, ["int8"])
        instead = f"; --model {smaller} would fit" if smaller else ""
        return replace(plan, precision_reason=f"{plan.precision_reason}, {_why_not_int8(task)}{instead}")
    if task.path != "engine":
        return plan
    length = task.wished_length
    rows = task.wished_rows(length)
    needed = task.peak_bytes("bf16", length, rows)
    if needed > task.available_bytes:
        return _because(plan, f"bf16 for {rows} chunks at once would take {needed / GIB:.1f} GiB")
    rival = _describe(task, "bf16", "bf16 fits and is clearly faster", (length, rows))
    if rival.seconds <= _CLEARLY_FASTER * plan.seconds:
        return _because(rival, f"{rival.seconds:.1f} s by estimate, in 8 bits {plan.seconds:.1f} s")
    return _because(plan, f"{plan.seconds:.1f} s by estimate, in bf16 {rival.seconds:.1f} s")


def _because(plan: Plan, numbers: str) -> Plan:
    return replace(plan, precision_reason=f"{plan.precision_reason}; {numbers}")


def _why_not_int8(task: _Task) -> str:
    return f"since 8-bit ones take at least {task.peak_bytes('int8', 1, 1) / GIB:.1f} GiB"


def _advice(task: _Task, precision: Precision) -> str:
    """Say what would fit where not even one picture does."""
    kinds: list[Precision] = ["bf16"] if _trouble(task.wishes) else ["int8", "nf4"]
    ways = [f"--precision {kind}" for kind in kinds if kind != precision and task.fits(kind, task.wished_length)][:1]
    smaller = _smaller_model(task, kinds)
    ways += [f"--model {smaller}"] if smaller else []
    return f"Not even one picture fits: try {', '.join([*ways, 'a smaller --size'])} or a device with more memory"


def _smaller_model(task: _Task, kinds: Sequence[Precision]) -> str:
    """Name the largest smaller model that reads whole chunks here, and the first of these precisions that allows it."""
    smaller = [each for each in PUBLISHED_SHAPES.items() if each[1].parameters < task.shape.parameters]
    for name, shape in sorted(smaller, key=lambda each: -each[1].parameters):
        for kind in kinds:
            if replace(task, shape=shape).fits(kind, task.wished_length):
                return f"{name} ({kind})"
    return ""
