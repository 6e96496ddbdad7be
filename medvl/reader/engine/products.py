"""Triton kernels that multiply few rows with weights as they are kept, and widen whole matrices; and their launchers.

The products are bound by the bytes of the weights. Each kernel is launched while the one before it still runs
(programmatic dependent launch, from Hopper on) and fetches weights before it waits for that one's results; hence every
kernel of the engine waits exactly once, before it reads anything but weights and before it writes anything.
Nothing is summed in an order that depends on other rows: a row's result has the same bits alone and among others, as
long as the number of rows falls into the same bucket.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

NF4_BLOCK = 64  # weights that share one absmax
_VECTOR_BITS = tl.constexpr(128)  # what a thread reads at once
_LINES_AHEAD = 8  # lines of each row that are fetched before the wait
_LINE = tl.constexpr(128)  # bytes of a cache line


class Tiles(NamedTuple):
    """How a product is cut up.

    columns, depth: of the weights' tile that one program holds at a time; parts: programs that share a tile's depth.
    """

    columns: int
    depth: int
    parts: int
    warps: int
    stages: int


def launch_options(tensor: Tensor) -> dict[str, Any]:
    """Let kernels on this tensor's device start before the one before them has ended, where that is possible."""
    if tensor.is_cuda and torch.cuda.get_device_capability(tensor.device)[0] >= 9:
        return {"OVERLAP": True, "launch_pdl": True}
    return {"OVERLAP": False}


@triton.jit
def _fetch(row, first, bytes_in_row, LINES: tl.constexpr):
    """Bring LINES cache lines of each row, from its byte `first` on, nearer without waiting for them."""
    byte = tl.minimum(first + tl.arange(0, LINES) * _LINE, bytes_in_row - 1)
    at = row[:, None] + byte[None, :]
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _read(at, inside, WHOLE: tl.constexpr):
    """Read weights, which nobody else will read in this step; zero outside, if anything can be outside."""
    if WHOLE:
        values = tl.load(at, eviction_policy="evict_first")
    else:
        values = tl.load(at, mask=inside, other=0, eviction_policy="evict_first")
    return values


@triton.jit
def _one_row_kernel(
    x, weight, scale, out, N, K: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, SCALED: tl.constexpr, GATED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One row of x against COLUMNS rows of the weights, without tensor cores: float32 throughout.

    A thread reads 16 bytes at a time and keeps the sum of their products; the sums meet once, at the end. GATED: the
    weights are gate above up, N rows each.
    """
    VECTOR: tl.constexpr = _VECTOR_BITS // weight.dtype.element_ty.primitive_bitwidth
    n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH // VECTOR)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    n_in = tl.minimum(n, N - 1)
    at = weight + n_in.to(tl.int64)[None, :, None] * K + k[:, None, :]
    at_up = at + N.to(tl.int64) * K
    WHOLE: tl.constexpr = K % DEPTH == 0
    if OVERLAP:
        gdc_launch_dependents()
    w = _read(at, k[:, None, :] < K, WHOLE)
    if GATED:
        up = _read(at_up, k[:, None, :] < K, WHOLE)
    if SCALED:
        size = tl.load(scale + n_in)
        if GATED:
            size_up = tl.load(scale + N + n_in)
    if OVERLAP:
        gdc_wait()
    total = tl.zeros((DEPTH // VECTOR, COLUMNS), tl.float32)
    total_up = tl.zeros((DEPTH // VECTOR, COLUMNS), tl.float32)
    for start in tl.static_range(0, K, DEPTH):
        a = tl.load(x + start + k, mask=start + k < K, other=0).to(tl.float32)
        total += tl.sum(w.to(tl.float32) * a[:, None, :], 2)
        if GATED:
            total_up += tl.sum(up.to(tl.float32) * a[:, None, :], 2)
        if start + DEPTH < K:
            inside = start + DEPTH + k[:, None, :] < K
            w = _read(at + start + DEPTH, inside, WHOLE)
            if GATED:
                up = _read(at_up + start + DEPTH, inside, WHOLE)
    y = tl.sum(total, 0)
    if SCALED:
        y *= size
    if GATED:
        y_up = tl.sum(total_up, 0)
        if SCALED:
            y_up *= size_up
        y = y / (1.0 + tl.exp(-y)) * y_up
    tl.store(out + n, y.to(out.dtype.element_ty), mask=n < N)


@triton.jit(do_not_specialize=["M"])
def _few_rows_kernel(
    x, weight, scale, out, M, N, K, span,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, WHOLE: tl.constexpr,
    SCALED: tl.constexpr, GATED: tl.constexpr, OVERLAP: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Up to ROWS rows of x against COLUMNS rows of the weights, on the tensor cores, over `span` of the depth K.

    The weights are the left operand: they are widened in registers, where the tensor cores take them from.
    out: (parts, M, N), a part for each span. GATED: the weights are gate above up, N rows each. WHOLE: DEPTH divides K.
    """
    m, k = tl.arange(0, ROWS), tl.arange(0, DEPTH)
    n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.program_id(1)
    first = part * span
    n_in = tl.minimum(n, N - 1).to(tl.int64)
    if OVERLAP:
        ITEM: tl.constexpr = weight.dtype.element_ty.primitive_bitwidth // 8
        row = weight.to(tl.int64, bitcast=True) + n_in * (K * ITEM)
        _fetch(row, first * ITEM, K * ITEM, LINES)
        if GATED:
            _fetch(row + N.to(tl.int64) * (K * ITEM), first * ITEM, K * ITEM, LINES)
        gdc_launch_dependents()
        gdc_wait()
    at = weight + n_in[:, None] * K + k[None, :]
    at_up = at + N.to(tl.int64) * K
    total = tl.zeros((COLUMNS, ROWS), tl.float32)
    total_up = tl.zeros((COLUMNS, ROWS), tl.float32)
    for start in tl.range(first, tl.minimum(first + span, K), DEPTH):
        inside = start + k < K
        a = tl.load(x + m[None, :] * K + (start + k)[:, None], mask=(m < M)[None, :] & inside[:, None], other=0)
        w = _read(at + start, inside[None, :], WHOLE)
        total = tl.dot(w.to(a.dtype), a, total, input_precision="ieee")
        if GATED:
            up = _read(at_up + start, inside[None, :], WHOLE)
            total_up = tl.dot(up.to(a.dtype), a, total_up, input_precision="ieee")
    if SCALED:
        total *= tl.load(scale + n_in)[:, None]
    if GATED:
        if SCALED:
            total_up *= tl.load(scale + N + n_in)[:, None]
        total = total / (1.0 + tl.exp(-total)) * total_up
    to = out + (part * M + m)[None, :].to(tl.int64) * N + n[:, None]
    tl.store(to, total.to(out.dtype.element_ty), mask=(m < M)[None, :] & (n < N)[:, None])


@triton.jit
def _one_of_four(low, high, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, D: tl.constexpr):
    return tl.where(high, tl.where(low, D, C), tl.where(low, B, A))


@triton.jit
def _decode(number, CODE: tl.constexpr):
    """Return the values that numbers 0 … 15 stand for. Chosen bit by bit: looked up, each would cost a read."""
    low, high = (number & 1) != 0, (number & 2) != 0
    a = _one_of_four(low, high, CODE[0], CODE[1], CODE[2], CODE[3])
    b = _one_of_four(low, high, CODE[4], CODE[5], CODE[6], CODE[7])
    c = _one_of_four(low, high, CODE[8], CODE[9], CODE[10], CODE[11])
    d = _one_of_four(low, high, CODE[12], CODE[13], CODE[14], CODE[15])
    third = (number & 4) != 0
    return tl.where((number & 8) != 0, tl.where(third, d, c), tl.where(third, b, a))


@triton.jit(do_not_specialize=["M"])
def _few_rows_nf4_kernel(
    x, weight, absmax, out, M, N, HALF: tl.constexpr, CODE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Up to ROWS rows of x against COLUMNS rows of the weights, two packed in a byte, the first in its high half.

    HALF: bytes of a row of the weights; a whole number of blocks. BLOCK: bytes that share one absmax; divides DEPTH.
    """
    m = tl.arange(0, ROWS)
    n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    n_in = tl.minimum(n, N - 1).to(tl.int64)[:, None]
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    total = tl.zeros((COLUMNS, ROWS), tl.float32)
    for start in tl.range(0, HALF, DEPTH):
        pair = start + tl.arange(0, DEPTH)
        inside = (m < M)[None, :] & (pair < HALF)[:, None]
        at = x + m[None, :] * (2 * HALF) + pair[:, None] * 2
        even, odd = tl.load(at, mask=inside, other=0), tl.load(at + 1, mask=inside, other=0)
        # Pairs beyond the end are read inside the row and meet zeros of x.
        packed = tl.load(weight + n_in * HALF + tl.minimum(pair, HALF - 1)[None, :])
        block = tl.minimum(start // BLOCK + tl.arange(0, DEPTH // BLOCK), HALF // BLOCK - 1)
        shared = tl.load(absmax + n_in * (HALF // BLOCK) + block[None, :])
        size = tl.reshape(tl.broadcast_to(shared[:, :, None], (COLUMNS, DEPTH // BLOCK, BLOCK)), (COLUMNS, DEPTH))
        first, second = _decode(packed >> 4, CODE) * size, _decode(packed & 15, CODE) * size
        total = tl.dot(first.to(even.dtype), even, total, input_precision="ieee")
        total = tl.dot(second.to(odd.dtype), odd, total, input_precision="ieee")
    to = out + m[None, :] * N + n[:, None]
    tl.store(to, total.to(out.dtype.element_ty), mask=(m < M)[None, :] & (n < N)[:, None])


@triton.jit
def _widen_int8_kernel(weight, scale, out, K, DEPTH: tl.constexpr, OVERLAP: tl.constexpr):
    row = tl.program_id(0)
    k = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    at = row.to(tl.int64) * K + k
    w = tl.load(weight + at, mask=k < K, other=0).to(tl.float32) * tl.load(scale + row)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    tl.store(out + at, w.to(out.dtype.element_ty), mask=k < K)


@triton.jit
def _widen_nf4_kernel(
    weight, absmax, out, pairs, CODE: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr, OVERLAP: tl.constexpr
):
    pair = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = tl.minimum(pair, pairs - 1)
    packed, size = tl.load(weight + inside), tl.load(absmax + inside // BLOCK)
    first, second = _decode(packed >> 4, CODE) * size, _decode(packed & 15, CODE) * size
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    both = tl.interleave(first, second).to(out.dtype.element_ty)
    place = tl.program_id(0).to(tl.int64) * (2 * SIZE) + tl.arange(0, 2 * SIZE)
    tl.store(out + place, both, mask=place < pairs * 2)


def bucket(rows: int) -> int:
    """Return the size of the tile that holds this many rows."""
    size: int = triton.next_power_of_2(rows)
    return max(16, size)


def choose_tiles(rows: int, n: int, k: int, item: int, *, gated: bool, whole: bool) -> Tiles:
    """Return how to cut up a product n wide with weights k deep of `item` bytes each; whole: in one part.

    The fastest of those that benchmarks/kernels.py tries on an H200 with the 8B's layers, for 1 and 30 rows.
    """
    if rows == 1:
        depth = next((depth for depth in (2048, 1024, 512) if k % depth == 0), min(4096, bucket(k)))
        return Tiles(4, depth, 1, max(1, depth * item // 512), 1)
    stages = 4 if item < 4 else 2  # float32 fills the shared memory twice as fast
    if gated:
        return Tiles(32, 128, 1, 2, stages)
    if not whole:
        return Tiles(64, 128, max(1, min(8, 512 // triton.cdiv(n, 64))), 2, stages)
    return Tiles(32, 256, 1, 4, stages) if item == 1 and rows <= 32 else Tiles(64, 128, 1, 4, stages)


def multiply(x: Tensor, weight: Tensor, scale: Tensor | None, out: Tensor, tiles: Tiles, *, gated: bool) -> None:
    """Multiply few rows x (m, k) with weights (n, k), each of their rows times its scale (n,) float32.

    out: (parts, m, n), whose sum over parts is the product. gated: the weights are gate above up; out is
    silu(gate) × up, half as wide, in one part.
    """
    shape = {"N": out.shape[2], "K": weight.shape[1], "SCALED": scale is not None, "GATED": gated}
    if len(x) == 1:
        _multiply_one(x, weight, scale, out, tiles, shape)
    else:
        _multiply_few(x, weight, scale, out, tiles, shape)


def _multiply_one(
    x: Tensor, weight: Tensor, scale: Tensor | None, out: Tensor, tiles: Tiles, shape: dict[str, Any]
) -> None:
    _one_row_kernel[(triton.cdiv(shape["N"], tiles.columns),)](
        x, weight, scale, out, **shape, COLUMNS=tiles.columns, DEPTH=tiles.depth,
        num_warps=tiles.warps, **launch_options(x),
    )  # fmt: skip


def _multiply_few(
    x: Tensor, weight: Tensor, scale: Tensor | None, out: Tensor, tiles: Tiles, shape: dict[str, Any]
) -> None:
    k, depth = shape["K"], min(tiles.depth, bucket(shape["K"]))
    span = triton.cdiv(k, depth * tiles.parts) * depth
    lines = min(_LINES_AHEAD, triton.next_power_of_2(max(span * weight.element_size() // 128, 1)))
    _few_rows_kernel[(triton.cdiv(shape["N"], tiles.columns), tiles.parts)](
        x, weight, scale, out, M=len(x), span=span, **shape, ROWS=bucket(len(x)), COLUMNS=tiles.columns, DEPTH=depth,
        WHOLE=k % depth == 0, LINES=lines, num_warps=tiles.warps, num_stages=tiles.stages, **launch_options(x),
    )  # fmt: skip


def multiply_few_nf4(x: Tensor, weight: Tensor, absmax: Tensor, code: Sequence[float], out: Tensor) -> None:
    """Multiply few rows x (m, k) with packed weights; absmax: float32, one for each 64; code: 16 values.

    k: a whole number of blocks of 64.
    """
    n = out.shape[1]
    _few_rows_nf4_kernel[(triton.cdiv(n, 64),)](
        x, weight, absmax, out, len(x), n, x.shape[1] // 2, tuple(code), ROWS=bucket(len(x)), COLUMNS=64, DEPTH=64,
        BLOCK=NF4_BLOCK // 2, num_warps=4, num_stages=3, **launch_options(x),
    )  # fmt: skip


def widen_int8(weight: Tensor, scale: Tensor, out: Tensor) -> None:
    """Write weights (n, k) times their scales (n,) into out, in its type."""
    n, k = weight.shape
    depth = min(4096, bucket(k))
    _widen_int8_kernel[(n, triton.cdiv(k, depth))](weight, scale, out, k, DEPTH=depth, **launch_options(weight))


def widen_nf4(weight: Tensor, absmax: Tensor, code: Sequence[float], out: Tensor) -> None:
    """Write packed weights, in the order of their rows, into out, in its type."""
    pairs = weight.numel()
    _widen_nf4_kernel[(triton.cdiv(pairs, 1024),)](
        weight, absmax, out, pairs, CODE=tuple(code), BLOCK=NF4_BLOCK // 2, SIZE=1024, **launch_options(weight)
    )
