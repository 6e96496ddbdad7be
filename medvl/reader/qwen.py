"""Reads with a local Qwen3-VL through transformers: one batch of requests in, one reading each out.

The tokenizer and our own picture arithmetic are used directly: transformers' AutoProcessor needs torchvision, whose
wheels do not match every build of torch, and its picture half takes 47 ms a slice (512², two cores) on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from medvl.errors import ModelError
from medvl.planning.shape import ModelShape
from medvl.reader.chat import ChatForm
from medvl.reader.checkpoint import read_end_ids, read_shape
from medvl.reader.decoding import Limits, wants_engine
from medvl.reader.grammar import Grammars
from medvl.reader.identity import Sampling, identify_reader
from medvl.reader.loading import load_model
from medvl.reader.memory import prepare_allocator, release, within_memory
from medvl.reader.precision import PrecisionChoice, check_precision, choose_precision
from medvl.reader.quiet import Progress, quiet_libraries
from medvl.reader.stock import StockWriter
from medvl.reader.weights import ModelLocation
from medvl.records import ReaderIdentity, Reading, Request
from medvl.settings import Decode, Precision
from medvl.text import counted


class Writer(Protocol):
    """One of the two ways in which a loaded model writes replies."""

    independent: bool

    def write(self, requests: Iterable[Request], rows: int) -> Iterator[tuple[int, Reading]]:
        """Answer requests, at most `rows` at once, each with its number as soon as it is whole."""
        ...

    def limit(self, limits: Limits) -> None:
        """Keep within other bounds from now on."""
        ...

    def forget(self) -> None:
        """Give back what is kept between calls."""
        ...


def load_qwen_reader(
    location: ModelLocation,
    precision: Precision = "auto",
    *,
    sampling: Sampling | None = None,
    decode: Decode = "auto",
    progress: Progress | None = None,
) -> QwenReader:
    """Load a checkpoint onto the GPU if there is one, else the CPU.

    decode: who writes the replies.
    progress: called with the share of the loading done, 0 … 1.
    Raises ModelError if the folder holds no usable Qwen3-VL or the precision does not work here, OutOfMemoryError if
    the weights do not fit.
    """
    prepare_allocator()
    shape = read_shape(location.folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with quiet_libraries():
        choice = choose_precision(precision, device)
    wanted = wants_engine(decode, cuda=device.type == "cuda")
    what = f"The weights of {location.name} do not fit in memory as {choice.precision}"
    model, tokenizer = within_memory(
        lambda: load_model(location.folder, choice.precision, device, progress), what, device
    )
    check_precision(model, choice.precision)
    chosen, engine = sampling or Sampling(), wanted and _engine_can(model, device, asked=decode == "engine")
    identity = identify_reader(
        location, choice.precision, chosen, device=_device_name(device), decode="engine" if engine else "stock"
    )
    parts = _Parts(model, ChatForm(tokenizer), shape, _grammars(tokenizer, shape, location.folder), chosen)
    writer = within_memory(lambda: _engine_writer(parts) if engine else StockWriter(*parts), what, device)
    return QwenReader(model, writer, identity, choice)


class _Parts(NamedTuple):
    """What both ways of writing are made of."""

    model: Any
    chat: ChatForm
    shape: ModelShape
    grammars: Grammars
    sampling: Sampling


def _grammars(tokenizer: Any, shape: ModelShape, folder: Path) -> Grammars:
    return Grammars(tokenizer, shape.vocab, read_end_ids(folder))


def _engine_can(model: Any, device: torch.device, *, asked: bool) -> bool:
    """Tell whether the engine runs this model here. Raises ModelError if it does not though it was asked for."""
    from medvl.reader.engine.text import why_not

    trouble = why_not(model.config)
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        trouble = f"{torch.cuda.get_device_name(device)} does not compute in bf16"
    if trouble and asked:
        raise ModelError(
            f"The engine cannot run this model here: {trouble}",
            expected="A Qwen3-VL as published, on a card of 2020 or later",
            todo="Choose --decode stock",
        )
    return not trouble


def _engine_writer(parts: _Parts) -> Writer:
    from medvl.reader.engine.loop import Engine
    from medvl.reader.engine.pictures import PictureCache
    from medvl.reader.engine.prompts import PromptWriter
    from medvl.reader.engine.text import TextModel
    from medvl.reader.engine.vision import VisionEncoder

    limits = Limits()
    cache = PictureCache(device_bytes=limits.kept_on_device_bytes, host_bytes=limits.kept_on_host_bytes)
    visual = parts.model.model.visual
    encoder = VisionEncoder(visual, parts.shape, cache=cache, pixels_at_once=limits.pixels_at_once)
    prompts = PromptWriter(parts.chat, parts.shape, encoder, parts.model.device)
    return Engine(TextModel(parts.model), encoder, prompts, parts.grammars, parts.sampling)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


class QwenReader:
    """A loaded Qwen3-VL. Satisfies `Reader`; made by `load_qwen_reader`."""

    def __init__(self, model: Any, writer: Writer, identity: ReaderIdentity, precision: PrecisionChoice) -> None:
        self._model = model
        self._writer = writer
        self._limits = Limits()
        self._identity = identity
        self.precision = precision

    @property
    def identity(self) -> ReaderIdentity:
        """What reads."""
        return self._identity

    @property
    def independent(self) -> bool:
        """Whether a reply does not depend on what is read beside it."""
        return self._writer.independent

    def read(self, requests: Iterable[Request], rows: int) -> Iterator[tuple[int, Reading]]:
        """Answer requests, at most `rows` at once; each comes with its number as soon as it is whole.

        Raises OutOfMemoryError when they do not fit, with the memory already given back; what came before counts.
        """
        what = f"{counted(rows, 'request')} at once did not fit in memory"
        written, device = self._writer.write(requests, rows), self._model.device
        while (answer := within_memory(lambda: next(written, None), what, device, self._writer.forget)) is not None:
            yield answer

    def limit(self, limits: Limits) -> None:
        """Keep within the bounds of another plan."""
        if limits != self._limits:
            self._limits = limits
            self._writer.limit(limits)

    def close(self) -> None:
        """Give back the weights' memory."""
        del self._model, self._writer
        release()
