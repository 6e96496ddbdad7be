"""What the card could do at best: its rates, measured, and what the work asks of them, counted.

Vision and prefill are bound by matrix products, a decode step by reading weights, keys and values once. Counted is what
no way of reading can avoid: every multiplication of a dense model, every weight at its stored width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.engine.machine import Machine
from benchmarks.engine.work import Work
from medvl.planning.shape import ModelShape
from medvl.reader.precision import LoadedPrecision

_FULL_BYTES = 2  # of a weight that is not quantised, of a key's and a value's number


@dataclass(frozen=True, slots=True)
class Rates:
    """What the card reached in this run."""

    bytes_per_s: float  # of a large copy, read and written
    operations_per_s: float  # of a square product of random bf16 matrices
    prefill_operations_per_s: float  # of a product as prefill has them: one prompt and a layer's gate and up

    @property
    def best_operations_per_s(self) -> float:
        """The higher of the two rates of products."""
        return max(self.operations_per_s, self.prefill_operations_per_s)


def measure_rates(machine: Machine, shape: ModelShape, prompt_tokens: int) -> Rates:
    """Measure copy bandwidth and matrix rates, in about a second on a GPU."""
    side, copied, rounds = (8192, 4 << 30, 20) if machine.cuda else (256, 16 << 20, 3)
    bandwidth = _copy_rate(machine, copied, rounds)
    machine.release()
    square = _product_rate(machine, side, side, side, rounds)
    prefill = _product_rate(machine, prompt_tokens, shape.hidden, 2 * shape.mlp, rounds)
    machine.release()
    return Rates(bandwidth, square, prefill)


def _copy_rate(machine: Machine, size: int, rounds: int) -> float:
    source = torch.randint(256, (size,), dtype=torch.uint8, device=machine.device)
    target = torch.empty_like(source)
    return 2 * size / machine.seconds(lambda: target.copy_(source), rounds)


def _product_rate(machine: Machine, rows: int, inner: int, columns: int, rounds: int) -> float:
    left = torch.randn(rows, inner, dtype=machine.dtype, device=machine.device)
    right = torch.randn(columns, inner, dtype=machine.dtype, device=machine.device)
    return 2 * rows * inner * columns / machine.seconds(lambda: left @ right.T, rounds)


@dataclass(frozen=True, slots=True)
class Limit:
    """The least time the card could need for each part of the work."""

    vision_s: float
    prefill_s: float
    step_s: float  # of all chunks at once
    lone_step_s: float  # of one chunk

    def total_s(self, work: Work) -> float:
        """All of it; the first new token comes from prefill."""
        return self.vision_s + self.prefill_s + (work.new_tokens - 1) * self.step_s


def compute_limit(shape: ModelShape, precision: LoadedPrecision, work: Work, prompt_tokens: int, rates: Rates) -> Limit:
    """Divide operations and bytes by what the card reached."""
    rate = rates.best_operations_per_s
    return Limit(
        vision_s=vision_operations(shape, work.size_px) * work.slices / rate,
        prefill_s=prefill_operations(shape, prompt_tokens) * work.chunks / rate,
        step_s=step_bytes(shape, precision, work.chunks, prompt_tokens + work.new_tokens / 2) / rates.bytes_per_s,
        lone_step_s=step_bytes(shape, precision, 1, prompt_tokens + work.new_tokens / 2) / rates.bytes_per_s,
    )


def vision_operations(shape: ModelShape, size_px: int) -> float:
    """Count the operations of one picture: embedding, blocks, attention of all patches to all, mergers."""
    patches = (size_px // shape.patch_px) ** 2
    width, merged = shape.vision_hidden, shape.vision_hidden * shape.merge**2
    block = 4 * width**2 + 2 * width * shape.vision_mlp + 2 * patches * width
    per_patch = shape.patch_values * width + shape.vision_layers * block
    mergers = (1 + len(shape.deepstack)) * merged * (merged + shape.hidden)
    return 2.0 * (patches * per_patch + patches // shape.merge**2 * mergers)


def prefill_operations(shape: ModelShape, prompt_tokens: int) -> float:
    """Count the operations of one prompt: layers, attention to what came before, logits of its last token."""
    attention = shape.layers * shape.heads * shape.head_dim * prompt_tokens  # a token sees half of them on average
    per_token = shape.text_linear_parameters + attention
    return 2.0 * (prompt_tokens * per_token + shape.vocab * shape.hidden)


def step_bytes(shape: ModelShape, precision: LoadedPrecision, rows: int, length: float) -> float:
    """Count the bytes a decode step reads: text layers, output matrix, keys and values of `rows` chunks."""
    head = shape.vocab * shape.hidden * _FULL_BYTES
    cache = rows * length * shape.cache_bytes_per_token(_FULL_BYTES)
    return linear_bytes(shape, precision) + head + cache


def linear_bytes(shape: ModelShape, precision: LoadedPrecision) -> float:
    """Count the bytes of the text layers' matrices: a float32 scale a row for int8, one per 64 weights for nf4."""
    count = shape.text_linear_parameters
    rows = shape.layers * ((shape.heads + 2 * shape.kv_heads) * shape.head_dim + 2 * shape.hidden + 2 * shape.mlp)
    return {"int8": count + 4.0 * rows, "nf4": count / 2 + count / 64 * 4}.get(precision, float(count * _FULL_BYTES))
