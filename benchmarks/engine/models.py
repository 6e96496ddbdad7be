"""Models of the published shapes with random weights, made where they are used; no file and no download.

They lie in memory as medvl's own loader lays them out. nf4 alone is quantised by bitsandbytes, in place.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from benchmarks.engine.machine import Machine
from benchmarks.engine.work import Requests, make_tokenizer
from medvl.planning.shape import PUBLISHED_SHAPES, ModelShape
from medvl.reader.chat import ChatForm
from medvl.reader.grammar import Grammar, Grammars, Mask
from medvl.reader.loading import empty_model, make_room
from medvl.reader.precision import LoadedPrecision, check_precision
from medvl.reader.tiny import TINY_SHAPE, make_config

MODEL_NAMES: Mapping[str, str] = {size: f"Qwen/Qwen3-VL-{size.upper()}-Instruct" for size in ("8b", "4b", "2b")}
SHAPES: Mapping[str, ModelShape] = {
    **{size: PUBLISHED_SHAPES[name] for size, name in MODEL_NAMES.items()},
    "tiny": TINY_SHAPE,
}

_STANDARD_DEVIATION = 0.02  # of Qwen's weights before training


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

    @torch.no_grad()
    def build(self, precision: LoadedPrecision) -> Loaded:
        """Build a model with random weights, laid out in memory as a loaded checkpoint is."""
        full: LoadedPrecision = "bf16" if self._machine.cuda else "fp32"
        straight = precision if precision == "int8" else full
        model = empty_model(make_config(self.shape, self._tokenizer), straight, self._machine.device)
        make_room(model, straight, self._machine.device)
        _fill(model)
        if precision == "nf4":
            _quantise(model, self._machine)
        if precision in ("int8", "nf4"):
            check_precision(model, precision)
        model.generation_config = GenerationConfig()
        return Loaded(model.eval(), self.shape, precision, self._chat, self._grammars, self.requests)


def _fill(model: Any) -> None:
    """Give weights the size they have before training; int8 ones the same, spread evenly."""
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.dtype == torch.int8:
            weight.data.random_(-127, 128)
            weight.SCB.fill_(_STANDARD_DEVIATION * 3**0.5)  # of numbers as likely anywhere between −1 and 1: 3^-½
        elif weight.ndim == 1:
            weight.data.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            weight.data.normal_(0.0, _STANDARD_DEVIATION)


def _quantise(model: Any, machine: Machine) -> None:
    """Replace the text model's Linear layers one by one, in place; at most one is held twice."""
    for module in list(model.model.language_model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, _nf4_layer(child))
    machine.release()


def _nf4_layer(linear: nn.Linear) -> nn.Module:
    import bitsandbytes as bnb

    weight = linear.weight.data
    form = {"compress_statistics": False, "quant_type": "nf4"}
    layer = bnb.nn.Linear4bit(*reversed(weight.shape), bias=False, compute_dtype=weight.dtype, device="meta", **form)
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, module=layer, **form).to(weight.device)
    return layer.eval()  # type: ignore[no-any-return]  # bitsandbytes is untyped
