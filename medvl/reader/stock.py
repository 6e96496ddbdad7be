"""Reads with stock transformers: a left-padded batch goes in, its replies come out together.

The path for machines without a GPU, and the reference that the engine is held to.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvl.planning.shape import ModelShape
from medvl.reader.chat import ChatForm
from medvl.reader.decoding import Limits
from medvl.reader.generate import write_replies
from medvl.reader.grammar import Grammars
from medvl.reader.identity import Sampling
from medvl.reader.patches import cut_patches, patch_grid
from medvl.reader.prompting import pictures_of, prompt_ids
from medvl.reader.quiet import quiet_libraries
from medvl.records import Reading, Request


class StockWriter:
    """Writes replies with a stock model. Satisfies `Writer`."""

    independent = False  # padding shifts rounding, and bitsandbytes looks for outliers over the whole batch

    def __init__(self, model: Any, chat: ChatForm, shape: ModelShape, grammars: Grammars, sampling: Sampling) -> None:
        self._model, self._chat, self._shape = model, chat, shape
        self._grammars, self._sampling = grammars, sampling

    def write(self, requests: Iterable[Request], rows: int) -> Iterator[tuple[int, Reading]]:
        """Answer `rows` requests at a time; a reading's seconds are an equal share of its batch's."""
        numbered = enumerate(requests)
        while batch := list(islice(numbered, rows)):
            readings = self._write_batch([request for _, request in batch])
            yield from zip((number for number, _ in batch), readings, strict=True)

    def limit(self, limits: Limits) -> None:
        """Nothing is kept between batches, so nothing is bound."""

    def forget(self) -> None:
        """Nothing is kept between batches."""

    def _write_batch(self, requests: Sequence[Request]) -> list[Reading]:
        start = time.perf_counter()
        prompts = [prompt_ids(self._chat, request, self._shape) for request in requests]
        inputs = self.inputs(prompts, requests)
        with quiet_libraries():
            replies = write_replies(self._model, inputs, requests, self._grammars, self._sampling)
        seconds = (time.perf_counter() - start) / len(requests)
        return [
            Reading(reply.text, reply.tokens, reply.complete, len(prompt), seconds)
            for reply, prompt in zip(replies, prompts, strict=True)
        ]

    def inputs(self, prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> dict[str, Tensor]:
        """Return what the stock forward takes, left padded to the longest prompt."""
        device = self._model.device
        longest = max(map(len, prompts))
        pad = self._grammars.end_ids[0]  # any token will do: the attention mask hides it
        ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        if pictures := [picture for request in requests for picture in pictures_of(request)]:
            inputs["mm_token_type_ids"] = (ids == self._chat.picture_pad).int().to(device)
            inputs |= self._picture_inputs(pictures, device)
        return inputs

    def _picture_inputs(self, pictures: Sequence[NDArray[np.uint8]], device: torch.device) -> dict[str, Tensor]:
        dtype = self._model.model.visual.dtype
        alike = (np.stack(list(group)) for _, group in groupby(pictures, key=lambda picture: picture.shape))
        rows = [cut_patches(torch.from_numpy(stack).to(device), self._shape, dtype) for stack in alike]
        grid = [patch_grid(picture.shape[0], picture.shape[1], self._shape) for picture in pictures]
        return {"pixel_values": torch.cat(rows), "image_grid_thw": torch.tensor(grid, device=device)}
