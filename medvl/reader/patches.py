"""Cuts pictures into the patch rows a Qwen3-VL vision tower takes, on whatever device the pictures are.

The arithmetic of the stock image processor for pictures that need no resizing, without its trip through PIL.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medvl.planning.shape import ModelShape

_MEAN = _SPREAD = 0.5  # per colour, for every Qwen3-VL checkpoint (image_mean, image_std of its preprocessor_config)


def cut_patches(pictures: Tensor, shape: ModelShape, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the normalised patch rows of equally large pictures.

    pictures: (n, height, width) or (n, height, width, 3) uint8, sides multiples of 32.
    Returns (n × height/16 × width/16, 3 × 2 × 16 × 16): picture by picture, patches in 2 × 2 groups, each patch as
    (colour, frame, row, column).
    """
    cells = cut_cells(pictures, shape).to(dtype).unsqueeze(3)
    return cells.expand(-1, -1, 3, shape.temporal, -1, -1).reshape(-1, shape.patch_values)


def cut_cells(pictures: Tensor, shape: ModelShape) -> Tensor:
    """Return the normalised patches of equally large pictures without what `cut_patches` repeats.

    pictures: as for `cut_patches`.
    Returns (n, height/16 × width/16, colours, 16, 16) float32 in the same order; a grey picture has one colour.
    """
    colours = pictures if pictures.ndim == 4 else pictures.unsqueeze(-1)
    count, height, width, depth = colours.shape
    merge, side = shape.merge, shape.patch_px
    grid = colours.reshape(count, height // shape.token_px, merge, side, width // shape.token_px, merge, side, depth)
    grouped = grid.permute(0, 1, 4, 2, 5, 7, 3, 6)  # n, groups down, groups across, merge, merge, colour, row, column
    cells = grouped.reshape(count, -1, depth, side, side).to(torch.float32)
    return (cells / 255 - _MEAN) / _SPREAD


def patch_grid(height_px: int, width_px: int, shape: ModelShape) -> tuple[int, int, int]:
    """Return the patches in time, down and across of one picture, as the model takes them."""
    return (1, height_px // shape.patch_px, width_px // shape.patch_px)
