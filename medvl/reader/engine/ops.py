"""The arithmetic of the text model, plain in torch, and by the engine's kernels where the tensors are on a GPU.

Norms, rotation and softmax are in float32, what lies between in the model's own type. All functions take and return
rows (m, …), one per token, without padding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medvl.reader.engine.matrix import Matrix
from medvl.reader.masks import unpack_mask


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Divide each row of x (m, n) by its root mean square, and multiply with weight (n,)."""
    if not x.is_cuda:
        return _norm(x, weight, epsilon)
    from medvl.reader.engine import kernels

    out = torch.empty_like(x)
    kernels.rms_norm(x.contiguous(), weight, out, epsilon)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the norm of x + residual, and x + residual."""
    if not x.is_cuda:
        added = x + residual
        return _norm(added, weight, epsilon), added
    return _sum_add_rms_norm(x[None].contiguous(), residual, weight, epsilon)


def multiply_add_rms_norm(
    matrix: Matrix, x: Tensor, residual: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return the norm of matrix × x + residual, and that sum before its norm."""
    if not matrix.is_few(x):
        return add_rms_norm(matrix.multiply(x), residual, weight, epsilon)
    return _sum_add_rms_norm(matrix.multiply_parts(x), residual, weight, epsilon)


def multiply_gated(gate_up: Matrix, x: Tensor) -> Tensor:
    """Return silu of the product with the upper half of the weights times the product with the lower: (m, n / 2)."""
    if gate_up.kind == "nf4" or not gate_up.is_few(x):
        return silu_mul(gate_up.multiply(x))
    return gate_up.multiply_few(x, gated=True)


def silu_mul(gate_up: Tensor) -> Tensor:
    """Return silu of the first half of each row times its second half."""
    if not gate_up.is_cuda:
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up
    from medvl.reader.engine import kernels

    out = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
    kernels.silu_mul(gate_up.contiguous(), out)
    return out


def store_rotated(
    qkv: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
    epsilon: float,
    cosine: Tensor,
    sine: Tensor,
    keys: Tensor,
    values: Tensor,
    slot: Tensor,
    place: Tensor,
) -> Tensor:
    """Norm and rotate the queries and keys of each token; write its keys and values; return the queries (m, heads, d).

    qkv: (m, (heads + 2 kv) × d), heads in that order; cosine, sine: (m, d) float32, equal halves. keys, values:
    (slots, kv, length, d); token i is written to [slot[i], :, place[i]].
    """
    kv, dim = keys.shape[1], keys.shape[3]
    heads = qkv.shape[1] // dim - 2 * kv
    if not qkv.is_cuda:
        query, key, value = torch.split(qkv.view(len(qkv), -1, dim), [heads, kv, kv], 1)
        keys[slot, :, place] = _rotate(_norm(key, k_norm, epsilon), cosine, sine)
        values[slot, :, place] = value
        return _rotate(_norm(query, q_norm, epsilon), cosine, sine)
    from medvl.reader.engine import kernels

    queries = qkv.new_empty(len(qkv), heads, dim)
    angles = (cosine.contiguous(), sine.contiguous())
    kernels.store_rotated(qkv.contiguous(), (q_norm, k_norm), epsilon, angles, keys, values, slot, place, queries)
    return queries


def rotate_patches(qkv: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate the queries and keys of the vision tower by their places: (n, patches, 2, heads, d).

    qkv: (n, patches, 3, heads, d); cosine, sine: (patches, d / 2) float32, the same for both halves.
    """
    if not qkv.is_cuda:
        low, high = qkv[:, :, :2].float().chunk(2, -1)
        turn, tip = cosine[:, None, None], sine[:, None, None]
        return torch.cat([low * turn - high * tip, high * turn + low * tip], -1).to(qkv.dtype)
    from medvl.reader.engine import kernels

    turned = qkv.new_empty(*qkv.shape[:2], 2, *qkv.shape[3:])
    kernels.rotate_patches(qkv.contiguous(), cosine, sine, turned)
    return turned


def decode_attention(q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """Attend from one token of every slot to the first lengths[i] places of its slot: (slots, heads × d).

    q: (slots, heads, d); keys, values: (slots, kv, length, d), neighbouring heads share one of kv.
    Length 0 gives zeros.
    """
    if not q.is_cuda:
        return _attend(q, keys, values, lengths)
    from medvl.reader.engine import kernels

    slots, kv = keys.shape[:2]
    out = q.new_empty(slots, q.shape[1] * q.shape[2])
    kernels.decode_attention(q.contiguous(), keys, values, lengths, out, kernels.choose_cut(slots, kv))
    return out


def choose(logits: Tensor, packed_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's likeliest allowed token, the first of equals, and its probability among the allowed ones.

    logits: (m, vocab) float32; packed_mask: (m, words) int32, bit i of a row allows token i, lowest bit first. A row
    that allows nothing, or whose logits are no numbers, gives a token without meaning and a probability that is none.
    """
    if logits.is_cuda:
        from medvl.reader.engine import kernels

        token = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
        probability = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        kernels.choose(logits.contiguous(), packed_mask.contiguous(), token, probability)
        return token, probability
    masked = logits.masked_fill(~unpack_mask(packed_mask, logits.shape[1]), -torch.inf)
    token = masked.argmax(-1)
    return token, masked.softmax(-1).gather(1, token[:, None])[:, 0]


def _sum_add_rms_norm(parts: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    from medvl.reader.engine import kernels

    normed, added = torch.empty_like(residual), torch.empty_like(residual)
    kernels.add_rms_norm(parts, residual.contiguous(), weight, normed, added, epsilon)
    return normed, added


def _norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    scale: Tensor = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * scale * weight.float()).to(x.dtype)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each half of the heads x (m, heads, d) against the other."""
    low, high = x.float().chunk(2, -1)
    turned = torch.cat([-high, low], -1)
    return (x.float() * cosine[:, None] + turned * sine[:, None]).to(x.dtype)


def _attend(q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    slots, kv, length, dim = keys.shape
    query = q.float().view(slots, kv, -1, dim)
    beyond = torch.arange(length, device=q.device) >= lengths[:, None]
    scores: Tensor = (query @ keys.float().transpose(2, 3) * dim**-0.5).masked_fill(beyond[:, None, None], -torch.inf)
    # What lies beyond may be anything, and nothing at all to attend to gives zeros.
    shares = scores.softmax(-1).masked_fill((lengths == 0)[:, None, None, None], 0.0)
    seen = shares @ values.float().masked_fill(beyond[:, None, :, None], 0.0)
    return seen.to(q.dtype).reshape(slots, -1)
