"""Reads with a local Qwen3-VL through transformers: one batch of requests in, one reading each out.

The tokenizer and our own picture arithmetic are used directly: transformers' AutoProcessor needs torchvision, whose
wheels do not match every build of torch, and its picture half takes 47 ms a slice (512², two cores) on the CPU.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, Qwen3VLForConditionalGeneration

from medvl.errors import ModelError, OutOfMemoryError
from medvl.planning.shape import ModelShape
from medvl.reader.chat import ChatForm
from medvl.reader.checkpoint import read_end_ids, read_shape
from medvl.reader.generate import Reply, write_replies
from medvl.reader.grammar import Grammars
from medvl.reader.identity import Sampling, identify_reader
from medvl.reader.patches import cut_patches, patch_grid
from medvl.reader.precision import PrecisionChoice, check_precision, choose_precision, load_options
from medvl.reader.quiet import Progress, quiet_libraries
from medvl.reader.weights import ModelLocation
from medvl.records import ReaderIdentity, Reading, Request
from medvl.settings import Precision

Result = TypeVar("Result")


def load_qwen_reader(
    location: ModelLocation,
    precision: Precision = "auto",
    *,
    sampling: Sampling | None = None,
    progress: Progress | None = None,
) -> QwenReader:
    """Load a checkpoint onto the GPU if there is one, else the CPU.

    progress: called with the share of weights loaded, 0 … 1.
    Raises ModelError if the folder holds no usable Qwen3-VL or the precision does not work here, OutOfMemoryError if
    the weights do not fit.
    """
    shape = read_shape(location.folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with quiet_libraries():
        choice = choose_precision(precision, device)
    what = f"The weights of {location.name} do not fit in memory as {choice.precision}"
    model, tokenizer = _within_memory(lambda: _load(location.folder, choice, device, progress), what, device)
    check_precision(model, choice.precision)
    grammars = Grammars(tokenizer, shape.vocab, read_end_ids(location.folder))
    identity = identify_reader(location, choice.precision, sampling or Sampling(), device=_device_name(device))
    return QwenReader(model, ChatForm(tokenizer), grammars, shape, sampling or Sampling(), identity, choice)


def _load(folder: Path, choice: PrecisionChoice, device: torch.device, progress: Progress | None) -> tuple[Any, Any]:
    options = load_options(choice.precision, device) | {"attn_implementation": "sdpa", "local_files_only": True}
    try:
        with quiet_libraries(progress):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, told = Qwen3VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _unusable(folder, str(error).splitlines()[0]) from error
    # transformers would go on with random numbers in place of these.
    if lost := sorted(told["missing_keys"]) or sorted(str(key) for key in told["mismatched_keys"]):
        raise _unusable(folder, f"{len(lost)} weights are missing or of the wrong size, the first is {lost[0]}")
    # The checkpoint's own sampling advice would otherwise fill whatever we leave unset.
    model.generation_config = GenerationConfig()
    return model.eval(), tokenizer


def _unusable(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"The checkpoint in {folder} cannot be loaded: {why}",
        expected="A folder with config.json, a tokenizer and whole safetensors weights",
        todo="Check it with `medvl models verify`",
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


class QwenReader:
    """A loaded Qwen3-VL. Satisfies `Reader`; made by `load_qwen_reader`."""

    def __init__(
        self,
        model: Any,
        chat: ChatForm,
        grammars: Grammars,
        shape: ModelShape,
        sampling: Sampling,
        identity: ReaderIdentity,
        precision: PrecisionChoice,
    ) -> None:
        self._model = model
        self._chat = chat
        self._grammars = grammars
        self._shape = shape
        self._sampling = sampling
        self._identity = identity
        self.precision = precision

    @property
    def identity(self) -> ReaderIdentity:
        """What reads."""
        return self._identity

    def read(self, requests: Sequence[Request]) -> list[Reading]:
        """Answer one batch, left padded to its longest prompt.

        A reading's seconds are an equal share of the batch's.
        Raises OutOfMemoryError when the batch does not fit, with its memory already given back.
        """
        if not requests:
            return []
        start = time.perf_counter()
        prompts = [self._prompt_ids(request) for request in requests]
        pictures = sum(not isinstance(part, str) for request in requests for part in request.parts)
        what = f"{len(requests)} requests with {pictures} pictures do not fit in memory at once"
        replies = _within_memory(lambda: self._write(prompts, requests), what, self._model.device)
        seconds = (time.perf_counter() - start) / len(requests)
        return [
            Reading(reply.text, reply.tokens, reply.complete, len(prompt), seconds)
            for reply, prompt in zip(replies, prompts, strict=True)
        ]

    def close(self) -> None:
        """Give back the weights' memory."""
        self._model = None
        _release()

    def _write(self, prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> list[Reply]:
        inputs = self._inputs(prompts, requests)
        with quiet_libraries():
            return write_replies(self._model, inputs, requests, self._grammars, self._sampling)

    def _prompt_ids(self, request: Request) -> list[int]:
        parts = (part if isinstance(part, str) else self._token_count(part) for part in request.parts)
        return self._chat.prompt_ids(parts)

    def _token_count(self, picture: NDArray[np.uint8]) -> int:
        side = self._shape.token_px
        height, width = int(picture.shape[0]), int(picture.shape[1])
        if height % side or width % side:
            raise ValueError(f"a picture of {height} × {width}; sides must be multiples of {side}")
        return (height // side) * (width // side)

    def _inputs(self, prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> dict[str, Tensor]:
        device = self._model.device
        longest = max(map(len, prompts))
        pad = self._grammars.end_ids[0]  # any token will do: the attention mask hides it
        ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        pictures = [part for request in requests for part in request.parts if not isinstance(part, str)]
        if pictures:
            inputs["mm_token_type_ids"] = (ids == self._chat.picture_pad).int().to(device)
            inputs |= self._picture_inputs(pictures, device)
        return inputs

    def _picture_inputs(self, pictures: Sequence[NDArray[np.uint8]], device: torch.device) -> dict[str, Tensor]:
        dtype = self._model.model.visual.dtype
        alike = (np.stack(list(group)) for _, group in groupby(pictures, key=lambda picture: picture.shape))
        rows = [cut_patches(torch.from_numpy(stack).to(device), self._shape, dtype) for stack in alike]
        grid = [patch_grid(picture.shape[0], picture.shape[1], self._shape) for picture in pictures]
        return {"pixel_values": torch.cat(rows), "image_grid_thw": torch.tensor(grid, device=device)}


def _within_memory(work: Callable[[], Result], what: str, device: torch.device) -> Result:
    """Do some work; a device or host that runs out of memory becomes OutOfMemoryError, with the memory given back."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
    # Only here, outside the handler, is the traceback gone that kept the work's tensors alive.
    _release()
    raise OutOfMemoryError(
        what,
        expected=f"Free on {device} without them: {_free_bytes(device) / 2**30:.1f} GiB",
        todo="Choose a smaller --chunk, --batch, --size or --precision, or a smaller model",
    )


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in ("out of memory", "can't allocate memory", "alloc_failed"))


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
