"""Chooses precision, chunk length and batch so that a reading fits into memory, and says what to expect.

Decides with integers alone, so that it can be tried on a laptop for any card. A decision carries its reason.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medvl.planning.chunks import overlap_for
from medvl.planning.device import Device
from medvl.planning.memory import Load, Memory, predict_memory
from medvl.planning.shape import ModelShape
from medvl.settings import Precision

DEFAULT_CHUNK = 10  # pictures; ten of 512² are 2,560 vision tokens, well inside what the model was trained on
_MARGIN = 0.08  # of the memory, left free for what the formula does not know
_CUDA_BATCH = 16  # beyond this the time per chunk falls little, while a crash loses more
_CPU_BATCH = 4
_EXPECTED_NEW_TOKENS = 150  # a chunk's usual reply; the cap is for the rare long one


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be read, as far as size matters."""

    view_slab_counts: tuple[int, ...]
    size_px: int
    text_tokens: int  # instruction, query and chat marks of one chunk
    label_tokens: int  # of one picture's label and marks
    new_tokens: int  # cap per chunk


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user or the checkpoint asked for; None leaves the choice to the plan."""

    precision: Precision = "auto"
    chunk: int | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do and what it will take."""

    precision: Precision
    precision_reason: str
    chunk_length: int
    overlap: int
    batch: int
    chunk_count: int
    picture_count: int  # pictures shown, overlaps counted twice
    tokens_per_chunk: int
    token_count: int
    memory: Memory
    available_bytes: int
    seconds: float
    fits: bool
    advice: str


def plan_reading(shape: ModelShape, device: Device, work: Workload, wishes: Wishes, budget_bytes: int | None) -> Plan:
    """Choose the first precision that fits, then the longest wished chunk, then the largest batch.

    budget_bytes: plan for this much memory instead of what is free on the device.
    """
    available = int((budget_bytes or device.free_bytes) * (1 - _MARGIN))
    candidates = list(_precisions(wishes.precision))
    for precision, reason in candidates:
        choice = _fit(shape, device, work, wishes, precision, available)
        if choice:
            return _describe(shape, device, work, precision, reason, choice, available)
    precision, reason = candidates[-1]
    return _describe(shape, device, work, precision, reason, (1, 1), available)


def has_bitsandbytes() -> bool:
    """Tell whether the 8-bit and 4-bit library is installed, without importing it."""
    return importlib.util.find_spec("bitsandbytes") is not None


def _precisions(wish: Precision) -> Iterator[tuple[Precision, str]]:
    if wish != "auto":
        yield wish, "as asked"
    elif has_bitsandbytes():
        yield "int8", "8-bit weights, medvl's default"
        yield "nf4", "4-bit weights, since 8-bit ones do not fit into memory"
    else:
        yield "bf16", "bitsandbytes is not installed, so 8-bit weights cannot be loaded"


def _fit(
    shape: ModelShape, device: Device, work: Workload, wishes: Wishes, precision: Precision, available: int
) -> tuple[int, int] | None:
    """Return chunk length and batch, or None if not even one picture fits."""

    def fits(length: int, rows: int) -> bool:
        load = _load(shape, work, length, rows)
        return predict_memory(shape, precision, load, cuda=device.kind == "cuda").peak_bytes <= available

    length = min(wishes.chunk or DEFAULT_CHUNK, max(work.view_slab_counts, default=1))
    while length > 1 and not fits(length, 1):
        length = (length + 1) // 2
    if not fits(length, 1):
        return None
    chunks = chunk_count(work.view_slab_counts, length)
    most = wishes.batch or (_CUDA_BATCH if device.kind == "cuda" else _CPU_BATCH)
    rows = min(most, max(chunks, 1))
    while rows > 1 and not fits(length, rows):
        rows -= 1
    return length, rows


def chunk_count(slab_counts: Sequence[int], length: int) -> int:
    """Count the chunks that `plan_chunks` will make of each view."""
    overlap = overlap_for(length)
    return sum(max(1, -(-(count - overlap) // (length - overlap))) for count in slab_counts if count)


def _load(shape: ModelShape, work: Workload, length: int, rows: int) -> Load:
    per_picture = shape.picture_tokens(work.size_px) + work.label_tokens
    return Load(rows, length, work.text_tokens + length * per_picture, work.new_tokens, work.size_px)


def _describe(
    shape: ModelShape,
    device: Device,
    work: Workload,
    precision: Precision,
    reason: str,
    choice: tuple[int, int],
    available: int,
) -> Plan:
    length, rows = choice
    load = _load(shape, work, length, rows)
    memory = predict_memory(shape, precision, load, cuda=device.kind == "cuda")
    chunks, overlap = chunk_count(work.view_slab_counts, length), overlap_for(length)
    views = sum(1 for count in work.view_slab_counts if count)
    pictures = sum(work.view_slab_counts) + overlap * (chunks - views)
    tokens = chunks * work.text_tokens + pictures * (shape.picture_tokens(work.size_px) + work.label_tokens)
    fits = memory.peak_bytes <= available
    return Plan(
        precision=precision,
        precision_reason=reason,
        chunk_length=length,
        overlap=overlap,
        batch=rows,
        chunk_count=chunks,
        picture_count=pictures,
        tokens_per_chunk=load.prompt_tokens,
        token_count=tokens,
        memory=memory,
        available_bytes=available,
        seconds=_estimate_seconds(shape, device, memory, tokens, chunks, rows),
        fits=fits,
        advice="" if fits else _advice(precision),
    )


def _advice(precision: Precision) -> str:
    smaller = {"fp32": "bf16", "bf16": "int8", "int8": "nf4"}.get(precision)
    first = f"--precision {smaller}, " if smaller else ""
    return (
        f"Not even one picture fits: try {first}a smaller --size or a smaller model such as Qwen/Qwen3-VL-4B-Instruct"
    )


def _estimate_seconds(shape: ModelShape, device: Device, memory: Memory, tokens: int, chunks: int, rows: int) -> float:
    """Estimate the model's time from operations and steps.

    cuda: stock transformers with bitsandbytes int8 on one H100 reached 146 TFLOP/s in prefill and 3.1 ms per layer in a
    decode step. cpu: two cores of a 2024 server reached about 60 GFLOP/s and read weights at about 10 GB/s.
    """
    cuda = device.kind == "cuda"
    rate, bandwidth, layer_seconds = (146e12, 2e12, 3.1e-3) if cuda else (60e9, 10e9, 1.5e-3)
    prefill = 2 * (shape.text_linear_parameters + shape.vision_parameters * shape.merge**2) * tokens / rate
    step = shape.layers * layer_seconds + memory.weights_bytes / bandwidth
    return prefill + -(-chunks // rows) * _EXPECTED_NEW_TOKENS * step
