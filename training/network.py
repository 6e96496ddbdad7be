"""Qwen3-VL's forward for training: stock weights, but everything that depends on sizes alone is computed once.

transformers' forward loops in Python over pictures for positions and attention, and makes logits for every token. Here
all pictures are one batch, and logits are made for the reply alone. `tests/training` holds it to the stock forward.
Shapes: b rows of l tokens; p pictures of t patches, in 2 × 2 groups as `medvl.reader.patches` cuts them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

_EPSILON = 1e-6


class Seen(NamedTuple):
    """What the vision tower makes of pictures."""

    patches: Tensor  # (p, t, vision width), after the last block
    tokens: Tensor  # (p × t / 4, text width)
    deep: list[Tensor]  # the same for each text layer that gets its own


class Read(NamedTuple):
    """What the text model makes of rows."""

    logits: Tensor  # (b, reply, vocabulary)
    middle: Tensor  # (p × t / 4, text width), the vision tokens after `MIDDLE_LAYER` layers


class _Grid(NamedTuple):
    indices: Tensor
    weights: Tensor
    cosine: Tensor
    sine: Tensor


class Network:
    """The fast forward of a stock model; it has no weights of its own."""

    def __init__(self, model: Any, dtype: torch.dtype, *, eager: bool = False) -> None:
        def ready(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return function if eager else torch.compile(function, dynamic=False)

        self._vision, self._text, self._model, self._dtype = (
            model.model.visual,
            model.model.language_model,
            model,
            dtype,
        )
        self._vision_block, self._text_block = ready(vision_block), ready(text_block)
        self._merge, self._merge_deep, self._embed = ready(merge), ready(merge_deep), ready(embed_patches)
        self._grids: dict[int, _Grid] = {}
        self.middle_layer = len(self._text.layers) * 2 // 3

    def see(self, patches: Tensor, side: int) -> Seen:
        """Run the vision tower. patches: (p, side², values) of one colour and frame, normalised."""
        grid = self._grid(side, patches.device)
        conv = self._vision.patch_embed.proj
        places = (self._vision.pos_embed(grid.indices) * grid.weights).sum(1)
        x = self._embed(patches, conv.weight, conv.bias, places.to(self._dtype))
        deep = []
        for number, block in enumerate(self._vision.blocks):
            x = self._vision_block(x, grid.cosine, grid.sine, *vision_weights(block))
            if number in self._vision.deepstack_visual_indexes:
                merger = self._vision.deepstack_merger_list[self._vision.deepstack_visual_indexes.index(number)]
                deep.append(self._merge_deep(x, *merger_weights(merger)))
        return Seen(x, self._merge(x, *merger_weights(self._vision.merger)), deep)

    def read(self, ids: Tensor, positions: Tensor, pictures: Tensor, seen: Seen | None, read_at: Tensor) -> Read:
        """Run the text model.

        ids (b, l); positions (3, b, l); pictures: place of each vision token in the flattened rows; read_at (b, reply).
        """
        rows, length = ids.shape
        hidden = self._text.embed_tokens(ids)
        if seen is not None:
            hidden = hidden.flatten(0, 1).index_copy(0, pictures, seen.tokens.to(hidden.dtype)).view_as(hidden)
        cosine, sine = (part.float()[:, :, None] for part in self._text.rotary_emb(hidden, positions))
        middle = hidden[:0, 0]
        for number, layer in enumerate(self._text.layers):
            hidden = self._text_block(hidden, cosine, sine, *text_weights(layer))
            if seen is not None and number < len(seen.deep):
                hidden = hidden.flatten(0, 1).index_add(0, pictures, seen.deep[number].to(hidden.dtype)).view_as(hidden)
            if seen is not None and number == self.middle_layer - 1:
                middle = hidden.flatten(0, 1).index_select(0, pictures)
        flat = (read_at + length * torch.arange(rows, device=ids.device)[:, None]).flatten()
        last = rms_norm(hidden.flatten(0, 1).index_select(0, flat), self._text.norm.weight).to(self._dtype)
        return Read(
            linear(last, self._model.lm_head.weight).view(rows, -1, self._model.lm_head.weight.shape[0]), middle
        )

    def _grid(self, side: int, device: torch.device) -> _Grid:
        if side not in self._grids:
            size = torch.tensor([[1, side, side]], device=device)
            vision = self._vision
            indices, weights = get_vision_interpolation_indices_and_weights(
                size,
                num_grid_per_side=vision.num_grid_per_side,
                mode=vision.interpolation_mode,
                align_corners=vision.interpolation_align_corners,
                spatial_merge_size=vision.spatial_merge_size,
            )
            places = get_vision_position_ids(size, vision.spatial_merge_size)
            cosine, sine = vision.rotary_pos_emb(torch.zeros(1, device=device), places)
            self._grids[side] = _Grid(indices, weights[:, :, None], cosine.float()[:, None], sine.float()[:, None])
        return self._grids[side]


# --- weights of the stock modules, in the order in which the functions below take them --------------------------


def _both(module: Any) -> list[nn.Parameter]:
    return [module.weight, module.bias]


def vision_weights(block: Any) -> list[nn.Parameter]:
    """Return the weights of one block of the vision tower."""
    parts = (block.norm1, block.attn.qkv, block.attn.proj, block.norm2, block.mlp.linear_fc1, block.mlp.linear_fc2)
    return [weight for part in parts for weight in _both(part)]


def merger_weights(merger: Any) -> list[nn.Parameter]:
    """Return the weights of one merger."""
    return [weight for part in (merger.norm, merger.linear_fc1, merger.linear_fc2) for weight in _both(part)]


def text_weights(layer: Any) -> list[nn.Parameter]:
    """Return the weights of one layer of the text model."""
    attention, mlp = layer.self_attn, layer.mlp
    linears = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    norms = (layer.input_layernorm, attention.q_norm, attention.k_norm, layer.post_attention_layernorm)
    return [part.weight for part in (*linears, mlp.gate_proj, mlp.up_proj, mlp.down_proj, *norms)]


# --- the arithmetic; matrix products in the type of the input, norms in float32 -----------------------------------


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer whose weights are cast to the input's type."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Return x over its root mean square, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + _EPSILON) * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply layer norm in float32, and go back to x's type."""
    return F.layer_norm(x.float(), weight.shape, weight, bias, _EPSILON).to(x.dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary positions to the halves of the last axis, in float32."""
    x = x.float()
    half = x.shape[-1] // 2
    return x * cosine + torch.cat([-x[..., half:], x[..., :half]], -1) * sine


def embed_patches(patches: Tensor, weight: Tensor, bias: Tensor, places: Tensor) -> Tensor:
    """Embed patches. All colours and frames of a picture are equal, so their weights add up."""
    return linear(patches, weight.sum((1, 2)).flatten(1), bias) + places


def vision_block(x: Tensor, cosine: Tensor, sine: Tensor, *weights: Tensor) -> Tensor:
    """Apply one block of the vision tower to (p, t, width)."""
    n1w, n1b, qkv_w, qkv_b, out_w, out_b, n2w, n2b, up_w, up_b, down_w, down_b = weights
    heads = x.shape[2] // cosine.shape[-1]
    q, k, v = linear(layer_norm(x, n1w, n1b), qkv_w, qkv_b).view(*x.shape[:2], 3, heads, -1).unbind(2)
    q, k = (rotate(part, cosine, sine).to(x.dtype).transpose(1, 2) for part in (q, k))
    seen = F.scaled_dot_product_attention(q, k, v.transpose(1, 2))
    x = x + linear(seen.transpose(1, 2).flatten(2), out_w, out_b)
    return x + linear(F.gelu(linear(layer_norm(x, n2w, n2b), up_w, up_b), approximate="tanh"), down_w, down_b)


def merge(x: Tensor, nw: Tensor, nb: Tensor, up_w: Tensor, up_b: Tensor, down_w: Tensor, down_b: Tensor) -> Tensor:
    """Merge each 2 × 2 group of patches into one vision token."""
    grouped = layer_norm(x, nw, nb).reshape(-1, up_w.shape[1])
    return linear(F.gelu(linear(grouped, up_w, up_b)), down_w, down_b)


def merge_deep(x: Tensor, nw: Tensor, nb: Tensor, up_w: Tensor, up_b: Tensor, down_w: Tensor, down_b: Tensor) -> Tensor:
    """Merge for an early text layer: the norm comes after the grouping."""
    grouped = layer_norm(x.reshape(-1, up_w.shape[1]), nw, nb)
    return linear(F.gelu(linear(grouped, up_w, up_b)), down_w, down_b)


def text_block(x: Tensor, cosine: Tensor, sine: Tensor, *weights: Tensor) -> Tensor:
    """Apply one layer of the text model to (b, l, width), kept in float32 between layers."""
    q_w, k_w, v_w, o_w, gate_w, up_w, down_w, n1, qn, kn, n2 = weights
    dtype, head = _product_dtype(x), qn.shape[0]
    normed = rms_norm(x, n1).to(dtype)
    q, k, v = (linear(normed, weight).view(*x.shape[:2], -1, head) for weight in (q_w, k_w, v_w))
    q = rotate(rms_norm(q, qn), cosine, sine).to(dtype).transpose(1, 2)
    k = rotate(rms_norm(k, kn), cosine, sine).to(dtype).transpose(1, 2)
    seen = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=True, enable_gqa=True)
    x = x + linear(seen.transpose(1, 2).flatten(2), o_w)
    normed = rms_norm(x, n2).to(dtype)
    return x + linear(F.silu(linear(normed, gate_w)) * linear(normed, up_w), down_w)


def _product_dtype(x: Tensor) -> torch.dtype:
    return torch.bfloat16 if x.is_cuda else torch.float32
