"""What both ways of writing replies need to know of a request before a model sees it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvl.planning.shape import ModelShape
from medvl.reader.chat import ChatForm
from medvl.records import Request


def prompt_ids(chat: ChatForm, request: Request, shape: ModelShape) -> list[int]:
    """Return the token ids of a request. Raises ValueError for a picture whose sides no whole tokens fill."""
    return chat.prompt_ids(part if isinstance(part, str) else _token_count(part, shape) for part in request.parts)


def pictures_of(request: Request) -> list[NDArray[np.uint8]]:
    """Return the pictures of a request in order."""
    return [part for part in request.parts if not isinstance(part, str)]


def token_grid(picture: NDArray[np.uint8], shape: ModelShape) -> tuple[int, int]:
    """Return the vision tokens down and across of one picture.

    Raises ValueError if its sides are not multiples of a token's.
    """
    height, width = int(picture.shape[0]), int(picture.shape[1])
    if height % shape.token_px or width % shape.token_px:
        raise ValueError(f"a picture of {height} × {width}; sides must be multiples of {shape.token_px}")
    return height // shape.token_px, width // shape.token_px


def _token_count(picture: NDArray[np.uint8], shape: ModelShape) -> int:
    rows, columns = token_grid(picture, shape)
    return rows * columns
