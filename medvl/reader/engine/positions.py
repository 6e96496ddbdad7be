"""Counts Qwen3-VL's positions of a prompt: text counts on, a picture spreads over rows and columns. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def prompt_positions(is_picture: NDArray[np.bool_], grids: Sequence[tuple[int, int]]) -> Ints:
    """Return the positions (3, length) of each token in time, down and across.

    is_picture: (length,) which tokens are a picture's; pictures are told apart by the text between them.
    grids: rows and columns of each picture's tokens, in order. Source: transformers' get_rope_index for Qwen3-VL.
    """
    edges = np.flatnonzero(np.diff(is_picture, prepend=False, append=False)).reshape(-1, 2)
    positions = np.zeros((3, len(is_picture)), dtype=np.int64)
    here, done = 0, 0
    for (first, end), (rows, columns) in zip(edges, grids, strict=True):
        positions[:, done:first] = here + np.arange(first - done)
        here += first - done
        row, column = np.divmod(np.arange(rows * columns), columns)
        positions[:, first:end] = here + np.stack([np.zeros_like(row), row, column])
        here, done = here + max(rows, columns), end
    positions[:, done:] = here + np.arange(len(is_picture) - done)
    return positions
