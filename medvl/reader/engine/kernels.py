"""Triton kernels between the products: norms, rotation, attention over the slots, choice; and their launchers.

As in `products`, every kernel waits exactly once for the one before it, and no row's result depends on other rows.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from medvl.reader.engine.products import bucket, launch_options

_LOG2_E = 1.4426950408889634  # the softmax is taken to base 2
_LOWEST = tl.constexpr(-3.0e38)  # below every logit; minus it, what is not allowed stays −∞
_CHOICE_SPAN = 4096  # logits that one program looks at


@triton.jit(do_not_specialize=["M"])
def _norm_kernel(
    x, residual, weight, normed, added, M, N, epsilon,
    PARTS: tl.constexpr, ADD: tl.constexpr, SIZE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """RMS norm of one row; the row is the sum of PARTS, with ADD also of the residual, which then leaves as `added`."""
    row, n = tl.program_id(0).to(tl.int64), tl.arange(0, SIZE)
    inside = n < N
    gain = tl.load(weight + n, mask=inside, other=0).to(tl.float32)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    total = tl.load(x + row * N + n, mask=inside, other=0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        total += tl.load(x + (part * M + row) * N + n, mask=inside, other=0).to(tl.float32)
    if ADD:
        total += tl.load(residual + row * N + n, mask=inside, other=0).to(tl.float32)
        kept = total.to(added.dtype.element_ty)
        tl.store(added + row * N + n, kept, mask=inside)
        total = kept.to(tl.float32)
    total *= tl.rsqrt(tl.sum(total * total) / N + epsilon)
    tl.store(normed + row * N + n, (total * gain).to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _silu_mul_kernel(gate_up, out, N, SIZE: tl.constexpr, OVERLAP: tl.constexpr):
    row, n = tl.program_id(0).to(tl.int64), tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    gate = tl.load(gate_up + row * 2 * N + n, mask=n < N, other=0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * N + N + n, mask=n < N, other=0).to(tl.float32)
    tl.store(out + row * N + n, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=n < N)


@triton.jit(do_not_specialize=["rows", "length"])
def _store_rotated_kernel(
    qkv, q_norm, k_norm, cosine, sine, keys, values, slot, place, queries, rows, length, epsilon,
    HEADS: tl.constexpr, KV: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Norm and rotate ROWS heads of the flattened (token, head) rows of qkv; keys and values go to their places.

    A head is held as two halves, which the rotation pairs.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    token, head = row // (HEADS + 2 * KV), row % (HEADS + 2 * KV)
    d = tl.arange(0, HALF)[None, :]
    is_query, is_key = (head < HEADS)[:, None], (head < HEADS + KV)[:, None]
    low_gain = tl.where(is_query, tl.load(q_norm + d), tl.load(k_norm + d)).to(tl.float32)
    high_gain = tl.where(is_query, tl.load(q_norm + HALF + d), tl.load(k_norm + HALF + d)).to(tl.float32)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    at, angle, seen = row[:, None] * (2 * HALF) + d, token[:, None] * (2 * HALF) + d, inside[:, None]
    low = tl.load(qkv + at, mask=seen, other=0).to(tl.float32)
    high = tl.load(qkv + at + HALF, mask=seen, other=0).to(tl.float32)
    size = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / (2 * HALF) + epsilon)[:, None]
    a, b = low * size * low_gain, high * size * high_gain
    turned_low = a * tl.load(cosine + angle, mask=seen, other=0) - b * tl.load(sine + angle, mask=seen, other=0)
    turned_high = b * tl.load(cosine + angle + HALF, mask=seen, other=0) + a * tl.load(
        sine + angle + HALF, mask=seen, other=0
    )
    low, high = tl.where(is_key, turned_low, low), tl.where(is_key, turned_high, high)
    low, high = low.to(queries.dtype.element_ty), high.to(queries.dtype.element_ty)
    to = queries + (token * HEADS + head)[:, None] * (2 * HALF) + d
    tl.store(to, low, mask=seen & is_query)
    tl.store(to + HALF, high, mask=seen & is_query)
    owner = tl.load(slot + token, mask=inside, other=0).to(tl.int64)
    where = tl.load(place + token, mask=inside, other=0).to(tl.int64)
    kv = (head - HEADS) % KV  # of queries this is never used
    to = ((owner * KV + kv) * length + where)[:, None] * (2 * HALF) + d
    tl.store(keys + to, low, mask=seen & is_key & ~is_query)
    tl.store(keys + to + HALF, high, mask=seen & is_key & ~is_query)
    tl.store(values + to, low, mask=seen & ~is_key)
    tl.store(values + to + HALF, high, mask=seen & ~is_key)


@triton.jit
def _rotate_patches_kernel(
    qkv, cosine, sine, turned, patches, PAIRS: tl.constexpr, HALF: tl.constexpr, SIZE: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Rotate the queries and keys of one patch, PAIRS numbers against as many; qkv has its values behind them."""
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    at, angle = i // HALF * (2 * HALF) + i % HALF, row % patches * HALF + i % HALF
    inside = i < PAIRS
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    turn, tip = tl.load(cosine + angle, mask=inside, other=0), tl.load(sine + angle, mask=inside, other=0)
    low = tl.load(qkv + row * (3 * PAIRS) + at, mask=inside, other=0).to(tl.float32)
    high = tl.load(qkv + row * (3 * PAIRS) + at + HALF, mask=inside, other=0).to(tl.float32)
    to = turned + row * (2 * PAIRS) + at
    tl.store(to, (low * turn - high * tip).to(turned.dtype.element_ty), mask=inside)
    tl.store(to + HALF, (high * turn + low * tip).to(turned.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["length", "span", "parts"])
def _attend_kernel(
    queries, keys, values, lengths, partial, weights, length, scale, span, parts,
    KV: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Attend from the GROUP query heads of one key head to `span` places of one slot.

    partial: (slots × heads, parts, DIM), normed within the span; weights: (slots × heads, parts), the logarithm to
    base 2 of what the span weighs. Spans behind the slot's end are left as they are.
    """
    pair, part = tl.program_id(0), tl.program_id(1)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    end = tl.minimum(tl.load(lengths + pair // KV).to(tl.int32), (part + 1) * span)
    first = part * span
    if first >= end:
        return
    group, d, t = tl.arange(0, ROWS), tl.arange(0, DIM), tl.arange(0, TILE)
    head = pair * GROUP + group
    q = tl.load(queries + head[:, None] * DIM + d[None, :], mask=(group < GROUP)[:, None], other=0)
    base = pair.to(tl.int64) * length * DIM
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS, DIM), tl.float32)
    for start in tl.range(first, end, TILE):
        seen = start + t < end
        at = base + (start + t).to(tl.int64)[:, None] * DIM + d[None, :]
        key = tl.load(keys + at, mask=seen[:, None], other=0)
        score = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
        score = tl.where(seen[None, :], score, float("-inf"))
        top = tl.maximum(best, tl.max(score, 1))
        share = tl.exp2(score - top[:, None])
        shrink = tl.exp2(best - top)
        value = tl.load(values + at, mask=seen[:, None], other=0)
        total = tl.dot(share.to(value.dtype), value, total * shrink[:, None], input_precision="ieee")
        weight = weight * shrink + tl.sum(share, 1)
        best = top
    to = head * parts + part
    tl.store(partial + to[:, None] * DIM + d[None, :], total / weight[:, None], mask=(group < GROUP)[:, None])
    tl.store(weights + to, best + tl.log2(weight), mask=group < GROUP)


@triton.jit(do_not_specialize=["span", "parts"])
def _combine_kernel(
    partial, weights, lengths, out, span, parts,
    HEADS: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Join the spans of one head of one slot."""
    head = tl.program_id(0)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    filled = (tl.load(lengths + head // HEADS).to(tl.int32) + span - 1) // span
    d, t = tl.arange(0, DIM), tl.arange(0, TILE)
    best, weight = float("-inf"), 0.0
    total = tl.zeros((DIM,), tl.float32)
    for start in tl.range(0, filled, TILE):
        seen = start + t < filled
        at = head.to(tl.int64) * parts + start + t
        size = tl.load(weights + at, mask=seen, other=float("-inf"))
        top = tl.maximum(best, tl.max(size, 0))
        share = tl.exp2(size - top)
        shrink = tl.exp2(best - top)
        value = tl.load(partial + at[:, None] * DIM + d[None, :], mask=seen[:, None], other=0)
        total = total * shrink + tl.sum(value * share[:, None], 0)
        weight = weight * shrink + tl.sum(share, 0)
        best = top
    total = total / tl.where(filled > 0, weight, 1.0)
    tl.store(out + head.to(tl.int64) * DIM + d, total.to(out.dtype.element_ty))


@triton.jit
def _best_kernel(
    logits, mask, best, weight, token, vocab, words, PARTS: tl.constexpr, SIZE: tl.constexpr, OVERLAP: tl.constexpr
):
    """Find the first maximum among the allowed of SIZE logits of one row, and the sum of exponentials under it."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = part * SIZE + tl.arange(0, SIZE)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    word = tl.load(mask + row * words + at // 32, mask=at < vocab, other=0)
    allowed = (at < vocab) & (((word >> (at % 32)) & 1) != 0)
    logit = tl.load(logits + row * vocab + at, mask=at < vocab, other=0)
    logit = tl.where(allowed, logit, float("-inf"))
    top = tl.maximum(tl.max(logit, 0), _LOWEST)
    to = row * PARTS + part
    tl.store(best + to, top)
    tl.store(weight + to, tl.sum(tl.exp(logit - top), 0))
    tl.store(token + to, tl.min(tl.where(allowed & (logit == top), at, vocab), 0))


@triton.jit
def _choose_kernel(best, weight, token, chosen, probability, vocab, PARTS: tl.constexpr, SIZE: tl.constexpr,
                   OVERLAP: tl.constexpr):  # fmt: skip
    """Join the parts of one row."""
    row, part = tl.program_id(0).to(tl.int64), tl.arange(0, SIZE)
    inside, at = part < PARTS, row * PARTS + part
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    tops = tl.load(best + at, mask=inside, other=_LOWEST)
    tokens = tl.load(token + at, mask=inside, other=vocab)
    top = tl.max(tops, 0)
    total = tl.sum(tl.load(weight + at, mask=inside, other=0) * tl.exp(tops - top), 0)
    first = tl.min(tl.where(tops == top, tokens, vocab), 0)
    tl.store(chosen + row, tl.where(first < vocab, first, 0).to(tl.int64))
    # The total holds the maximum itself, so it is 1 at least: less, or no number, and there was nothing to choose from.
    tl.store(probability + row, tl.where(total >= 1.0, 1.0 / tl.maximum(total, 1.0), float("nan")))


def rms_norm(x: Tensor, weight: Tensor, out: Tensor, epsilon: float) -> None:
    """Norm the rows of x (m, n) into out."""
    m, n = x.shape
    _norm_kernel[(m,)](
        x, None, weight, out, None, m, n, epsilon,
        PARTS=1, ADD=False, SIZE=triton.next_power_of_2(n), num_warps=8, **launch_options(x),
    )  # fmt: skip


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, normed: Tensor, added: Tensor, epsilon: float) -> None:
    """Sum x (parts, m, n) over its parts, add the residual (m, n) into `added`, and norm that into `normed`."""
    parts, m, n = x.shape
    _norm_kernel[(m,)](
        x, residual, weight, normed, added, m, n, epsilon,
        PARTS=parts, ADD=True, SIZE=triton.next_power_of_2(n), num_warps=8, **launch_options(x),
    )  # fmt: skip


def silu_mul(gate_up: Tensor, out: Tensor) -> None:
    """Multiply silu of the first half of each row with its second half."""
    m, n = out.shape
    _silu_mul_kernel[(m, triton.cdiv(n, 1024))](gate_up, out, n, SIZE=1024, **launch_options(gate_up))


def store_rotated(
    qkv: Tensor, norms: tuple[Tensor, Tensor], epsilon: float, angles: tuple[Tensor, Tensor],
    keys: Tensor, values: Tensor, slot: Tensor, place: Tensor, queries: Tensor,
) -> None:  # fmt: skip
    """Norm and rotate queries (m, heads, d) and keys, and write keys and values of token i to their slot's place[i]."""
    m, heads, dim = queries.shape
    kv, length = keys.shape[1], keys.shape[2]
    rows = m * (heads + 2 * kv)
    _store_rotated_kernel[(triton.cdiv(rows, 8),)](
        qkv, *norms, *angles, keys, values, slot, place, queries, rows, length, epsilon,
        HEADS=heads, KV=kv, HALF=dim // 2, ROWS=8, **launch_options(qkv),
    )  # fmt: skip


def rotate_patches(qkv: Tensor, cosine: Tensor, sine: Tensor, turned: Tensor) -> None:
    """Rotate queries and keys by their places.

    qkv: (n, patches, 3, heads, d); cosine, sine: (patches, d / 2) float32; turned: (n, patches, 2, heads, d).
    """
    count, patches, _, heads, dim = qkv.shape
    pairs, size = heads * dim, 256
    _rotate_patches_kernel[(count * patches, triton.cdiv(pairs, size))](
        qkv, cosine, sine, turned, patches, PAIRS=pairs, HALF=dim // 2, SIZE=size, num_warps=2, **launch_options(qkv)
    )


class Cut(NamedTuple):
    """How attention is cut up: places that one program attends to, and those it holds at a time."""

    span: int
    tile: int
    warps: int
    stages: int


def choose_cut(slots: int, kv: int) -> Cut:
    """Return how to cut up attention over this many slots and heads: enough programs for a card, none of them tiny.

    It knows nothing of lengths, so that a reply is the same bits whatever its slot has room for. The fastest of those
    that benchmarks/kernels.py tries on an H200 with 2,800 places, for 1 and 30 slots.
    """
    return Cut(min(max(triton.next_power_of_2(slots * kv * 4), 128), 512), 64, 4, 2)


def decode_attention(queries: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, out: Tensor, cut: Cut) -> None:
    """Attend from queries (slots, heads, d) to the first lengths[i] places of slot i; out (slots, heads × d)."""
    slots, kv, length, dim = keys.shape
    heads = queries.shape[1]
    parts = triton.cdiv(length, cut.span)
    partial = torch.empty(slots * heads, parts, dim, dtype=torch.float32, device=queries.device)
    weights = torch.empty(slots * heads, parts, dtype=torch.float32, device=queries.device)
    options = launch_options(queries)
    _attend_kernel[(slots * kv, parts)](
        queries, keys, values, lengths, partial, weights, length, dim**-0.5 * _LOG2_E, cut.span, parts,
        KV=kv, GROUP=heads // kv, ROWS=bucket(heads // kv), DIM=dim, TILE=cut.tile,
        num_warps=cut.warps, num_stages=cut.stages, **options,
    )  # fmt: skip
    _combine_kernel[(slots * heads,)](
        partial, weights, lengths, out, cut.span, parts, HEADS=heads, DIM=dim, TILE=32, num_warps=4, **options
    )


def choose(logits: Tensor, packed_mask: Tensor, token: Tensor, probability: Tensor) -> None:
    """Find each row's first maximum among the allowed logits (m, vocab) float32, and its share of their softmax."""
    m, vocab = logits.shape
    parts = triton.cdiv(vocab, _CHOICE_SPAN)
    best, weight = (torch.empty(m, parts, dtype=torch.float32, device=logits.device) for _ in range(2))
    first = torch.empty(m, parts, dtype=torch.int32, device=logits.device)
    options = launch_options(logits)
    _best_kernel[(m, parts)](
        logits, packed_mask, best, weight, first, vocab, packed_mask.shape[1],
        PARTS=parts, SIZE=_CHOICE_SPAN, **options,
    )  # fmt: skip
    _choose_kernel[(m,)](
        best, weight, first, token, probability, vocab, PARTS=parts, SIZE=triton.next_power_of_2(parts), **options
    )
