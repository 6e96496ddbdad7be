"""Qwen3-VL's text model over slots: each reply in progress owns one row of static key/value buffers.

No padding anywhere: a prompt is prefilled alone, and a step takes one token of every slot, each at its own place.
The weights are the stock model's own; the arithmetic around them is `ops`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medvl.reader.engine.matrix import Matrix
from medvl.reader.engine.ops import (
    decode_attention,
    multiply_add_rms_norm,
    multiply_gated,
    rms_norm,
    store_rotated,
)

Attend = Callable[[int, Tensor], Tensor]  # number of the layer, queries (m, heads, d) -> (m, heads × d)


@dataclass(frozen=True, slots=True)
class Slots:
    """Keys and values, each (layers, slots, kv heads, places, head size)."""

    keys: Tensor
    values: Tensor

    @property
    def count(self) -> int:
        """Replies that can be in progress at once."""
        return self.keys.shape[1]

    @property
    def places(self) -> int:
        """Tokens of prompt and reply that one slot can hold."""
        return self.keys.shape[3]


@dataclass(frozen=True, slots=True)
class Vision:
    """What the vision tower made of a prompt's pictures, and where it belongs."""

    places: Tensor  # (n,) of the vision tokens in the prompt
    tokens: Tensor  # (n, hidden)
    deep: Tensor  # (deepstack, n, hidden), added after the first text layers


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the model takes it."""

    ids: Tensor  # (length,)
    positions: Tensor  # (3, length)
    vision: Vision | None = None


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    norm: Tensor
    query_norm: Tensor
    key_norm: Tensor
    mlp_norm: Tensor


class _Written(NamedTuple):
    """Where the tokens at hand are written, with their rotary angles."""

    slot: Tensor
    place: Tensor
    cosine: Tensor
    sine: Tensor


def why_not(config: Any) -> str:
    """Return why the engine cannot run a Qwen3-VL of this configuration; empty if it can.

    Its arithmetic is written down here and in `ops`; what the stock modules could also be told to do is not.
    """
    text, deep = config.text_config, config.vision_config.deepstack_visual_indexes
    if text.hidden_act != "silu":
        return f"its text layers use {text.hidden_act}, not silu"
    if getattr(text, "attention_bias", False):
        return "its attention has biases"
    if (kind := text.rope_parameters["rope_type"]) not in ("default", "linear", "yarn", "llama3"):
        return f"its rotary positions ({kind}) change with the length"
    if text.head_dim not in (16, 32, 64, 128, 256):
        return f"its heads are {text.head_dim} wide, which is no power of two"
    if len(deep) >= text.num_hidden_layers:
        return "pictures reach all of its text layers"
    return ""


class TextModel:
    """The text half of a stock model, from token ids to logits."""

    def __init__(self, model: Any) -> None:
        """model: a loaded Qwen3VLForConditionalGeneration; its stacked layers share storage with it from now on."""
        text = model.model.language_model
        self._embed, self._rotary, self._final_norm = text.embed_tokens, text.rotary_emb, text.norm.weight
        self._layers = [_take(layer) for layer in text.layers]
        self._head = Matrix.from_linears([model.lm_head])
        self._epsilon = float(text.config.rms_norm_eps)
        self._kv_heads, self._head_dim = text.config.num_key_value_heads, text.config.head_dim
        self.vocab = int(model.lm_head.weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        where: torch.device = self._final_norm.device
        return where

    def empty_slots(self, count: int, places: int) -> Slots:
        """Make buffers for `count` replies of at most `places` tokens, prompt included."""
        shape = (len(self._layers), count, self._kv_heads, places, self._head_dim)
        keys, values = (torch.zeros(shape, dtype=self._final_norm.dtype, device=self.device) for _ in range(2))
        return Slots(keys, values)

    def prefill(self, prompt: Prompt, slots: Slots, slot: int) -> Tensor:
        """Write a prompt's keys and values into a slot; return the logits (vocab,) float32 of the first reply token."""
        length = len(prompt.ids)
        x = self._embed(prompt.ids)
        if prompt.vision is not None:
            x = x.index_copy(0, prompt.vision.places, prompt.vision.tokens)

        def attend(number: int, queries: Tensor) -> Tensor:
            keys, values = (part[number, slot, :, :length][None] for part in (slots.keys, slots.values))
            seen = F.scaled_dot_product_attention(
                queries.transpose(0, 1)[None], keys, values, is_causal=len(queries) > 1, enable_gqa=True
            )
            return seen[0].transpose(0, 1).flatten(1)

        owner = torch.full((length,), slot, device=self.device)
        places = torch.arange(length, device=self.device)
        written = _Written(owner, places, *self._angles(prompt.positions))
        return self._head.multiply(self._run(x, slots, written, attend, prompt), torch.float32)[0]

    def step(self, tokens: Tensor, positions: Tensor, lengths: Tensor, slots: Slots) -> Tensor:
        """Take one token further in every slot; return logits (slots, vocab) float32.

        tokens, positions, lengths: (slots,); lengths count the token at hand, 0 for a slot that is free.
        """

        def attend(number: int, queries: Tensor) -> Tensor:
            return decode_attention(queries, slots.keys[number], slots.values[number], lengths)

        owner = torch.arange(slots.count, device=self.device)
        places = (lengths.long() - 1).clamp(min=0)
        written = _Written(owner, places, *self._angles(positions.expand(3, -1)))
        return self._head.multiply(self._run(self._embed(tokens), slots, written, attend, None), torch.float32)

    def _run(self, x: Tensor, slots: Slots, written: _Written, attend: Attend, prompt: Prompt | None) -> Tensor:
        """Run all layers over tokens (m, hidden); return their normed output, of a prompt its last token's alone."""
        slot, place, cosine, sine = written
        following = [layer.norm for layer in self._layers[1:]] + [self._final_norm]
        normed = rms_norm(x, self._layers[0].norm, self._epsilon)
        for number, (layer, next_norm) in enumerate(zip(self._layers, following, strict=True)):
            queries = store_rotated(
                layer.qkv.multiply(normed),
                layer.query_norm,
                layer.key_norm,
                self._epsilon,
                cosine,
                sine,
                slots.keys[number],
                slots.values[number],
                slot,
                place,
            )
            if prompt is not None and number == len(self._layers) - 1:  # nothing looks at the others any more
                queries, x = queries[-1:], x[-1:]
            seen = attend(number, queries)
            normed, x = multiply_add_rms_norm(layer.out, seen, x, layer.mlp_norm, self._epsilon)
            if prompt is not None and prompt.vision is not None and number < len(prompt.vision.deep):
                x = x.index_add(0, prompt.vision.places, prompt.vision.deep[number])
            raised = multiply_gated(layer.gate_up, normed)
            normed, x = multiply_add_rms_norm(layer.down, raised, x, next_norm, self._epsilon)
        return normed

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine (m, head size) float32 of positions (3, m)."""
        wide = torch.zeros(1, device=self.device)  # the stock module returns its input's type
        cosine, sine = self._rotary(wide, positions[:, None])
        return cosine[0], sine[0]


def _take(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        qkv=Matrix.from_linears([attention.q_proj, attention.k_proj, attention.v_proj]),
        out=Matrix.from_linears([attention.o_proj]),
        gate_up=Matrix.from_linears([mlp.gate_proj, mlp.up_proj]),
        down=Matrix.from_linears([mlp.down_proj]),
        norm=layer.input_layernorm.weight,
        query_norm=attention.q_norm.weight,
        key_norm=attention.k_norm.weight,
        mlp_norm=layer.post_attention_layernorm.weight,
    )
