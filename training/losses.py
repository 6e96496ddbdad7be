"""What the model is taught: the reply, and two maps of lesions that keep its early layers from guessing.

The maps are read off the vision tower's patches and off the text model's vision tokens by small heads, which are
thrown away when the checkpoint is written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.network import Read, Seen
from training.pictures import Shown

_RARE = 8.0  # weight of a cell with a lesion against one without
_MAP_WEIGHT, _MARK_WEIGHT = 1.0, 0.5
# What the sums over a picture are divided by, so that both losses end up about as large as the reply's.
_USUAL_CELLS, _USUAL_MARKS = 50, 20
_LESION_CELLS, _FLUID_CELLS = 4, 2  # along the side of a patch


class Losses(NamedTuple):
    """The parts of one step's loss; `total` is what is minimised."""

    total: Tensor
    reply: Tensor
    lesions: Tensor
    marks: Tensor


class Helpers(nn.Module):
    """The heads that only training has."""

    def __init__(self, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.map = nn.Linear(vision_width, _LESION_CELLS**2 + _FLUID_CELLS**2)
        last = nn.Linear(128, 4)
        self.mark = nn.Sequential(nn.Linear(text_width, 128), nn.GELU(), last)
        nn.init.constant_(self.map.bias, -4.0)
        nn.init.constant_(last.bias, -2.0)


def reply_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean loss of the reply's tokens; weight 0 is padding."""
    each = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum()


def map_loss(helpers: Helpers, seen: Seen, shown: Shown, seen_at_all: Tensor) -> Tensor:
    """Return how badly the patches tell which of their cells are nodule or fluid.

    seen_at_all: (pictures,) 1 where the window shows lesions.
    """
    guesses = helpers.map(seen.patches.float())
    lesion = _per_patch(shown.lesion, _LESION_CELLS)
    fluid = _per_patch(shown.fluid, _FLUID_CELLS)
    truth = torch.cat([lesion, fluid], dim=2) * seen_at_all[:, None, None]
    rare = torch.tensor(_RARE, device=truth.device)
    return F.binary_cross_entropy_with_logits(guesses, truth, pos_weight=rare, reduction="sum") / (
        len(truth) * _USUAL_CELLS
    )


def _per_patch(cells: Tensor, side: int) -> Tensor:
    """Return maps (p, n, n) as cells of patches (p, t, side²), patches in 2 × 2 groups."""
    count, size = cells.shape[:2]
    across = size // (2 * side)
    grid = cells.view(count, across, 2, side, across, 2, side)
    return grid.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, -1, side**2)


def mark_loss(helpers: Helpers, read: Read, marks: Tensor, grid: int) -> Tensor:
    """Return how badly the vision tokens tell whether a nodule's middle lies in them, where, and how large it is.

    marks: (b, n, nodules, 4) of there or not, x, y, radius in parts of the picture.
    """
    guesses = helpers.mark(read.middle.float())
    truth = mark_targets(marks, grid).flatten(0, 2)
    there = truth[:, :1]
    rare = torch.tensor(_RARE, device=truth.device)
    found = F.binary_cross_entropy_with_logits(guesses[:, :1], there, pos_weight=rare, reduction="sum")
    placed = ((guesses[:, 1:] - truth[:, 1:]).abs() * there).sum()
    loss: Tensor = (found + 2 * placed) / (marks.shape[0] * marks.shape[1] * _USUAL_MARKS)
    return loss


def mark_targets(marks: Tensor, grid: int) -> Tensor:
    """Return (b, n, grid², 4): whether a nodule's middle lies in a token, where in it, and its radius in tokens."""
    there, x, y, radius = marks.unbind(3)
    column, row = (x * grid).floor(), (y * grid).floor()
    cell = (row * grid + column).long()
    values = torch.stack([there, x * grid - column, y * grid - row, radius * grid], dim=3)
    cells = torch.arange(grid**2, device=marks.device)
    here = (cells == cell[:, :, :, None]) & (there[..., None] > 0)  # (b, n, nodules, cells)
    return (here[..., None] * values[:, :, :, None]).amax(dim=2)


def combine(reply: Tensor, lesions: Tensor, marks: Tensor) -> Losses:
    """Add up the parts of a loss."""
    return Losses(
        reply + _MAP_WEIGHT * lesions + _MARK_WEIGHT * marks, reply.detach(), lesions.detach(), marks.detach()
    )
