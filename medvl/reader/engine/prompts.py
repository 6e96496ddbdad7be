"""Turns requests into prompts: token ids, positions, and what the vision tower makes of the pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvl.planning.shape import ModelShape
from medvl.reader.chat import ChatForm
from medvl.reader.engine.positions import prompt_positions
from medvl.reader.engine.text import Prompt, Vision
from medvl.reader.engine.vision import VisionEncoder
from medvl.reader.prompting import pictures_of, prompt_ids, token_grid
from medvl.records import Request


class PromptWriter:
    """Writes prompts for one model."""

    def __init__(self, chat: ChatForm, shape: ModelShape, encoder: VisionEncoder, device: torch.device) -> None:
        self._chat, self._shape, self._encoder, self._device = chat, shape, encoder, device

    def ids(self, request: Request) -> list[int]:
        """Return the prompt's token ids."""
        return prompt_ids(self._chat, request, self._shape)

    def write(self, ids: Sequence[int], request: Request) -> Prompt:
        """Return the prompt with its pictures encoded."""
        pictures = pictures_of(request)
        is_picture = np.array(ids) == self._chat.picture_pad
        grids = [token_grid(picture, self._shape) for picture in pictures]
        tokens, positions = self._sent(np.array(ids)), self._sent(prompt_positions(is_picture, grids))
        if not pictures:
            return Prompt(tokens, positions)
        encoded = self._encoder.encode(pictures)
        values = torch.cat([each.values for each in encoded], dim=1)
        return Prompt(tokens, positions, Vision(self._sent(is_picture.nonzero()[0]), values[0], values[1:]))

    def _sent(self, numbers: NDArray[np.int64]) -> Tensor:
        host = torch.from_numpy(numbers)
        return (host.pin_memory() if self._device.type == "cuda" else host).to(self._device, non_blocking=True)
