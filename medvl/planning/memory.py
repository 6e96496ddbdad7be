"""How many bytes a reading takes, part by part. Arithmetic on dimensions; no torch, no files.

Weights, keys and values, and encoded pictures are exact. What else is alive at once can only be measured: those numbers
stand in one table below, and the peaks they are held against in benchmarks/results/memory.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medvl.planning.shape import ModelShape
from medvl.settings import Precision

GIB = 2**30
NF4_BLOCK = 64  # weights that share a scale
PLACES_STEP = 256  # an engine's slots come in these lengths, so that prompts of nearly one length share buffers

# engine: our own loop on a GPU, one prompt prefilled at a time, no padding. stock: transformers' generate on a GPU, the
# whole batch at once. cpu: the same on the host.
DecodePath = Literal["engine", "stock", "cpu"]


@dataclass(frozen=True, slots=True)
class _Alive:
    """What is alive at the worst moment, counted in tensors of one width."""

    hidden_wide: float  # in a text layer, per token
    mlp_wide: float
    vision_hidden_wide: float  # in a vision layer, per patch
    vision_mlp_wide: float
    logits_wide: float  # in float32, per row, all the time
    int8_factor: float  # LLM.int8() keeps a quantised copy of each layer's input
    outlier_bytes: int  # per weight of a layer whose columns LLM.int8() widens because they meet an outlier
    workspace_bytes: int  # of matrix libraries and captured graphs, counted by torch
    context_bytes: int  # of the process on the device, or of the interpreter on the host; not counted by torch


# Held against the peaks of one H200 and one H100 in benchmarks/results/memory.json.
# engine, all counted in its code. Text: embedded prompt, residual, norm, queries and what they saw; gate, up and two of
# their products, of which the older has gone when quantised weights are unpacked. Vision: input and norm of a block,
# both sides of its GELU; attention takes 9 widths and so less. Workspace: cuBLAS takes 32 MiB on Hopper for each of
# three streams (reading, warming up, capturing), 8 MiB elsewhere; 48 MiB for positions, masks and torch's rounding,
# which came to 22 to 30. 0.05 to 0.3 % above the peaks.
# stock: 0.2 to 2.9 % above the peaks of the H200, 3.8 to 7.3 % above those of the H100; it counts a mask, which prompts
# of one length, as they had, do without. Outliers: a column's int8 copy and its float32 form; random weights have them
# in most columns, trained ones in few.
# cpu: the same layers, and what the interpreter and torch take; not measured.
_ALIVE: dict[DecodePath, _Alive] = {
    "engine": _Alive(5, 4, 2, 2, 1, 1.0, 0, (3 * 32 + 48) * 2**20, GIB // 2),
    "stock": _Alive(6, 4, 8, 2, 3, 1.25, 5, (32 + 32) * 2**20, GIB // 2),
    "cpu": _Alive(6, 4, 8, 2, 3, 1.25, 5, 0, int(0.6 * GIB)),
}
_LOGITS_IN_A_STEP = 3  # in float32, per row: a draw's masked, scaled and softened ones; greedy steps hold fewer


@dataclass(frozen=True, slots=True)
class Memory:
    """Where the bytes of a reading go."""

    weights_bytes: int
    cache_bytes: int  # keys and values
    picture_bytes: int  # encoded pictures, those at hand and those kept
    activation_bytes: int  # the largest of vision, prefill and decode step
    logits_bytes: int
    workspace_bytes: int
    context_bytes: int

    @property
    def allocated_bytes(self) -> int:
        """The most that torch holds at one moment: its own `max_memory_allocated`."""
        held = self.weights_bytes + self.cache_bytes + self.picture_bytes + self.activation_bytes
        return held + self.logits_bytes + self.workspace_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that the device must have free for the process."""
        return self.allocated_bytes + self.context_bytes


@dataclass(frozen=True, slots=True)
class Load:
    """How much is read at once."""

    rows: int  # chunks read together
    pictures: int  # per chunk
    prompt_tokens: int  # per chunk, pictures included
    new_tokens: int  # at most, per chunk
    size_px: int
    pictures_at_once: int = 1  # through the vision tower; the engine's choice, stock transformers takes all
    kept_pictures: int = 0  # encoded ones that stay on the device for another use; the engine's, too


def predict_memory(shape: ModelShape, precision: Precision, load: Load, path: DecodePath) -> Memory:
    """Predict the memory of a reading at its worst moment."""
    alive, logits_bytes = _ALIVE[path], load.rows * shape.vocab * 4
    return Memory(
        weights_bytes=weights_bytes(shape, precision, path),
        cache_bytes=load.rows * _places(load, path) * shape.cache_bytes_per_token(value_bytes(precision, path)),
        picture_bytes=_encoded_pictures(load, path) * encoded_bytes(shape, load.size_px),
        activation_bytes=max(
            prefill_bytes(shape, precision, load, path),
            vision_bytes(shape, precision, load, path),
            _LOGITS_IN_A_STEP * logits_bytes if path == "engine" else 0,
        ),
        logits_bytes=int(logits_bytes * alive.logits_wide),
        workspace_bytes=alive.workspace_bytes,
        context_bytes=alive.context_bytes,
    )


def weights_bytes(shape: ModelShape, precision: Precision, path: DecodePath) -> int:
    """Return the bytes of the weights once loaded: only the text model's Linear layers are quantised."""
    full = shape.parameters - shape.text_linear_parameters
    copied = _copied_scales(shape, precision) * 4 if path == "engine" else 0
    return linear_bytes(shape, precision) + full * value_bytes(precision, path) + copied


def linear_bytes(shape: ModelShape, precision: Precision) -> int:
    """Return the bytes of the text layers' Linear modules with their scales."""
    count = shape.text_linear_parameters
    if precision == "int8":  # a float32 scale a row
        return count + shape.text_linear_rows * 4
    if precision == "nf4":  # two weights a byte, a float32 scale per block
        return count // 2 + count // NF4_BLOCK * 4
    return count * (4 if precision == "fp32" else 2)


def _copied_scales(shape: ModelShape, precision: Precision) -> int:
    """Count the scales the engine holds beside bitsandbytes' own: of int8 divided by 127, of nf4 where it stacks."""
    if precision == "int8":
        return shape.text_linear_rows
    return shape.stacked_text_parameters // NF4_BLOCK if precision == "nf4" else 0


def value_bytes(precision: Precision, path: DecodePath) -> int:
    """Return the bytes of what is not quantised: float32 beside int8 and nf4 on CPUs, many of which emulate bf16."""
    return 4 if precision == "fp32" or (path == "cpu" and precision != "bf16") else 2


def encoded_bytes(shape: ModelShape, size_px: int) -> int:
    """Return the bytes of one picture after the vision tower: its tokens, and once more for each deepstack layer."""
    return shape.picture_tokens(size_px) * shape.hidden * (1 + len(shape.deepstack)) * 2


def prefill_bytes(shape: ModelShape, precision: Precision, load: Load, path: DecodePath) -> int:
    """Return what is alive in a text layer while prompts are read: one prompt in the engine, else all rows."""
    alive, width = _ALIVE[path], value_bytes(precision, path)
    values = alive.hidden_wide * shape.hidden + alive.mlp_wide * shape.mlp
    if path == "engine":
        angles = 2 * shape.head_dim * 4  # cosine and sine in float32
        read = int(load.prompt_tokens * (values * width + angles))
        if precision in ("bf16", "fp32"):
            return read
        # Unpacked weights have gone before the product of gate and up takes their place.
        return read + max(0, shape.largest_text_matrix - load.prompt_tokens * shape.mlp) * width
    values += len(shape.deepstack) * shape.hidden
    mask = load.rows * load.prompt_tokens**2 * width
    outliers = alive.outlier_bytes * shape.hidden * shape.mlp if precision == "int8" else 0
    return int((load.rows * load.prompt_tokens * values * width + mask) * _int8_factor(precision, path)) + outliers


def vision_bytes(shape: ModelShape, precision: Precision, load: Load, path: DecodePath) -> int:
    """Return what is alive in a vision layer while pictures are encoded."""
    alive = _ALIVE[path]
    pictures = load.pictures_at_once if path == "engine" else load.rows * load.pictures
    patches = pictures * (load.size_px // shape.patch_px) ** 2
    values = alive.vision_hidden_wide * shape.vision_hidden + alive.vision_mlp_wide * shape.vision_mlp
    if path != "engine":
        values += 2 * shape.patch_values  # the rows themselves, in float32
    return int(patches * values * value_bytes(precision, path) * _int8_factor(precision, path))


def _int8_factor(precision: Precision, path: DecodePath) -> float:
    return _ALIVE[path].int8_factor if precision == "int8" else 1.0


def _places(load: Load, path: DecodePath) -> int:
    tokens = load.prompt_tokens + load.new_tokens
    return -(-tokens // PLACES_STEP) * PLACES_STEP if path == "engine" else tokens


def _encoded_pictures(load: Load, path: DecodePath) -> int:
    """Pictures encoded at the worst moment; stock transformers' count among the activations."""
    return load.pictures + load.kept_pictures if path == "engine" else 0
