"""Models of the published shapes with random weights, made where they are used; no file and no download.

Quantising is bitsandbytes': its layers take the place of the text model's Linear ones, as when a checkpoint is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, Qwen3VLForConditionalGeneration

from benchmarks.engine.machine import Machine
from benchmarks.engine.work import Requests, make_tokenizer
from medvl.planning.shape import PUBLISHED_SHAPES, ModelShape
from medvl.reader.chat import ChatForm
from medvl.reader.grammar import Grammar, Grammars, Mask
from medvl.reader.precision import LoadedPrecision, check_precision
from medvl.reader.tiny import TINY_SHAPE, make_config

MODEL_NAMES: Mapping[str, str] = {size: f"Qwen/Qwen3-VL-{size.upper()}-Instruct" for size in ("8b", "4b", "2b")}
SHAPES: Mapping[str, ModelShape] = {
    **{size: PUBLISHED_SHAPES[name] for size, name in MODEL_NAMES.items()},
    "tiny": TINY_SHAPE,
}


class StampedGrammars(Grammars):
    """Grammars that note when a step asks for its masks: once a step, as soon as the last step's tokens are known."""

    def __init__(self, tokenizer: Any, vocab: int, end_ids: Sequence[int]) -> None:
        super().__init__(tokenizer, vocab, end_ids)
        self.stamps: list[float] = []

    def fill(self, mask: Mask, rows: Sequence[tuple[int, Grammar]]) -> None:
        """Write the masks."""
        self.stamps.append(time.perf_counter())
        super().fill(mask, rows)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to read, and what it is asked."""

    model: Any
    shape: ModelShape
    precision: LoadedPrecision
    chat: ChatForm
    grammars: StampedGrammars
    requests: Requests


class Workshop:
    """Builds models of one shape; the vocabulary is made once."""

    def __init__(self, shape: ModelShape, machine: Machine) -> None:
        self.shape, self._machine = shape, machine
        self._tokenizer = make_tokenizer(shape.vocab)
        ends = self._tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
        self._grammars = StampedGrammars(self._tokenizer, shape.vocab, ends)
        self._chat = ChatForm(self._tokenizer)
        self.requests = Requests(self._chat)

    def build(self, precision: LoadedPrecision) -> Loaded:
        """Build a model with random weights, quantised if the precision asks for it."""
        loaded = Loaded(self._build(), self.shape, "bf16", self._chat, self._grammars, self.requests)
        return quantise(loaded, precision, self._machine) if precision in _MAKERS else loaded

    def _build(self) -> Any:
        torch.manual_seed(0)
        config = make_config(self.shape, self._tokenizer)
        usual = torch.get_default_dtype()
        torch.set_default_dtype(self._machine.dtype)
        try:
            with self._machine.device:
                model = Qwen3VLForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(usual)
        model.generation_config = GenerationConfig()
        return model.eval()


@torch.no_grad()
def quantise(loaded: Loaded, precision: LoadedPrecision, machine: Machine) -> Loaded:
    """Replace the text model's Linear layers one by one, in place; at most one is held twice."""
    make = _MAKERS[precision]
    for module in list(loaded.model.model.language_model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, make(child))
    machine.release()
    check_precision(loaded.model, precision)
    return replace(loaded, precision=precision)


def _int8_layer(linear: nn.Linear) -> nn.Module:
    import bitsandbytes as bnb

    rows, columns = linear.weight.shape
    layer = bnb.nn.Linear8bitLt(columns, rows, bias=False, has_fp16_weights=False, threshold=6.0, device="meta")
    codes, scales, _ = bnb.functional.int8_vectorwise_quant(linear.weight.data.half())
    layer.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    return layer.eval()  # type: ignore[no-any-return]  # bitsandbytes is untyped


def _nf4_layer(linear: nn.Linear) -> nn.Module:
    import bitsandbytes as bnb

    weight = linear.weight.data
    form = {"compress_statistics": False, "quant_type": "nf4"}
    layer = bnb.nn.Linear4bit(*reversed(weight.shape), bias=False, compute_dtype=weight.dtype, device="meta", **form)
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, module=layer, **form).to(weight.device)
    return layer.eval()  # type: ignore[no-any-return]  # bitsandbytes is untyped


_MAKERS: Mapping[LoadedPrecision, Callable[[nn.Linear], nn.Module]] = {"int8": _int8_layer, "nf4": _nf4_layer}
