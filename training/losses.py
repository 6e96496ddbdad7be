"""What the model is taught: the reply's words and decisions, and helpers that keep its early layers from guessing.

A map of lesions is read off the vision tower's patches; where nodules lie, off the vision tokens, both as they leave
the tower and in the middle of the text model; there the first digits of their corners as well. Small heads do it, which
are thrown away when the checkpoint is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.network import Read, Seen
from training.pictures import Shown

_WEIGHTS = {"reply": 2.0, "decisions": 1.0, "lesions": 1.0, "spots": 1.0, "marks": 1.0, "corners": 0.5}
_RARE = 8.0  # weight of a cell with a lesion against one without
# What the sums over a picture are divided by, so that the losses end up about as large as the reply's.
_USUAL_CELLS, _USUAL_MARKS = 50, 20
_LESION_CELLS, _FLUID_CELLS = 4, 2  # along the side of a patch
_PLACE = 2.0  # weight of a nodule's place and size against its being there
_CORNERS, _DIGITS = 4, 2  # of three: what a token can tell of the last one is mostly chance
_SPREAD_UNITS, _REACH_UNITS = 1.5, 4  # of a corner, in thousandths of the picture


class Helpers(nn.Module):
    """The heads that only training has."""

    def __init__(self, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.map = nn.Linear(vision_width, _LESION_CELLS**2 + _FLUID_CELLS**2)
        self.spot, self.mark = _mark_head(text_width), _mark_head(text_width)
        self.corner = nn.Linear(text_width, _CORNERS * _DIGITS * 10)  # linear: what attention copies, a reply can tell
        nn.init.constant_(self.map.bias, -4.0)


def _mark_head(width: int) -> nn.Sequential:
    last = nn.Linear(128, 5)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([-2.0, 0.5, 0.5, 0.2, 0.2]))  # most tokens hold nothing; usual places and sizes
    return nn.Sequential(nn.Linear(width, 128), nn.GELU(), last)


def combine(parts: Mapping[str, Tensor]) -> Tensor:
    """Return the weighted sum of a step's losses, which is minimised."""
    return torch.stack([_WEIGHTS[name] * part for name, part in parts.items()]).sum()


def reply_losses(logits: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weighted mean loss of the replies' words, and the mean over rows of that of their decisions.

    natural (rows,): how often such a row is met in studies over how often it is drawn. Decisions count by it, and by
    nothing that depends on the other rows, so what the model learns is how often there is a finding in a study.
    """
    targets, weights = inputs["targets"], inputs["weights"]
    each = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(weights)
    decided = (each * inputs["decides"]).sum(dim=1)
    return {"reply": (each * weights).sum() / weights.sum(), "decisions": (decided * inputs["natural"]).mean()}


def judge_decisions(logits: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return how often the first decision is right for chunks with findings, and wrong for those without.

    Every batch is fresh, so this is what a held-out set would show. NaN where a batch has no such chunk.
    """
    at, rows = inputs["decides"].float().argmax(1), torch.arange(len(logits), device=logits.device)
    right = (logits[rows, at].argmax(-1) == inputs["targets"][rows, at]).float()
    present = inputs["present"].float()
    return {
        "found": (right * present).sum() / present.sum(),
        "false": ((1 - right) * (1 - present)).sum() / (1 - present).sum(),
    }


# --- the map of lesions -------------------------------------------------------------------------------------------


def map_loss(helpers: Helpers, seen: Seen, shown: Shown, seen_at_all: Tensor) -> Tensor:
    """Return how badly the patches tell which of their cells are nodule or fluid.

    seen_at_all: (pictures,) 1 where the window shows lesions.
    """
    guesses = helpers.map(seen.patches.float())
    lesion = _per_patch(shown.lesion, _LESION_CELLS)
    fluid = _per_patch(shown.fluid, _FLUID_CELLS)
    truth = torch.cat([lesion, fluid], dim=2) * seen_at_all[:, None, None]
    rare = torch.full((), _RARE, device=truth.device)
    return F.binary_cross_entropy_with_logits(guesses, truth, pos_weight=rare, reduction="sum") / (
        len(truth) * _USUAL_CELLS
    )


def _per_patch(cells: Tensor, side: int) -> Tensor:
    """Return maps (p, n, n) as cells of patches (p, t, side²), patches in 2 × 2 groups."""
    count, size = cells.shape[:2]
    across = size // (2 * side)
    grid = cells.view(count, across, 2, side, across, 2, side)
    return grid.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, -1, side**2)


# --- the boxes of nodules; marks (b, n, nodules, 5) are those of `training.chunks.mark_nodules` -----------------------


def mark_loss(head: Callable[[Tensor], Tensor], tokens: Tensor, marks: Tensor, grid: int) -> Tensor:
    """Return how badly vision tokens tell whether a nodule's middle lies in them, where, and how large it is.

    tokens: (b × n × grid², width). Place and size are told in tokens; their loss is the mean over nodules, however few.
    """
    guesses = head(tokens.float())
    truth = mark_targets(marks, grid).flatten(0, 2)
    there = truth[:, :1]
    rare = torch.full((), _RARE, device=truth.device)
    found = F.binary_cross_entropy_with_logits(guesses[:, :1], there, pos_weight=rare, reduction="sum")
    placed = ((guesses[:, 1:] - truth[:, 1:]).abs().mean(dim=1, keepdim=True) * there).sum() / there.sum().clamp(min=1)
    loss: Tensor = found / (marks.shape[0] * marks.shape[1] * _USUAL_MARKS) + _PLACE * placed
    return loss


def mark_targets(marks: Tensor, grid: int) -> Tensor:
    """Return (b, n, grid², 5): is a nodule's middle in a token, where in it, and half its box in tokens."""
    there, cell = locate_marks(marks, grid)
    middle, half = marks[..., 1:3] * grid, marks[..., 3:] * grid
    values = torch.cat([there[..., None], middle - middle.floor(), half], dim=3)
    here = (torch.arange(grid**2, device=marks.device) == cell[..., None]) * there[..., None]
    return (here[..., None] * values[:, :, :, None]).amax(dim=2)  # of (b, n, nodules, cells, 5)


def locate_marks(marks: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Return which marks lie in their picture, 0 or 1, and the token that holds each one's middle: (b, n, nodules)."""
    x, y = marks[..., 1], marks[..., 2]
    there = marks[..., 0] * (x >= 0) * (x < 1) * (y >= 0) * (y < 1)
    cell = (y * grid).floor() * grid + (x * grid).floor()
    return there, (cell * there).long()


def corner_loss(helpers: Helpers, read: Read, marks: Tensor, grid: int) -> Tensor:
    """Return how badly the tokens with a nodule's middle tell the first digits of the corners of its box.

    The mean over digits. It cannot fall to 0, since a corner at the border of two digits may be either.
    """
    there, cell = locate_marks(marks, grid)
    tokens = read.middle.view(*marks.shape[:2], grid**2, -1)
    states = tokens.gather(2, cell[..., None].expand(*cell.shape, tokens.shape[-1])).float()
    guesses = helpers.corner(F.rms_norm(states, states.shape[-1:]))  # normed, as the next layer reads it
    each = F.cross_entropy(guesses.view(-1, 10), corner_digits(marks).view(-1, 10), reduction="none")
    by_mark = each.view(*there.shape, -1).mean(dim=-1)
    return (by_mark * there).sum() / there.sum().clamp(min=1)


def corner_digits(marks: Tensor) -> Tensor:
    """Return the hundreds and tens of left, upper, right and lower thousandths, as shares: (b, n, nodules, 4, 2, 10).

    A corner is spread over its neighbours, so that 499 and 500 are nearly the same to learn, though no digit is.
    """
    middle, half = marks[..., 1:3], marks[..., 3:]
    corners = (1000 * torch.cat([middle - half, middle + half], dim=-1)).clamp(0, 999)[..., None]
    units = corners.round() + torch.arange(-_REACH_UNITS, _REACH_UNITS + 1, device=marks.device)
    shares = (-0.5 * ((units - corners) / _SPREAD_UNITS) ** 2).softmax(dim=-1)
    units = units.clamp(0, 999)
    digits = torch.stack([units // 100, units // 10 % 10], dim=-2)  # (…, 4, 2, neighbours)
    is_digit = digits[..., None] == torch.arange(10, device=marks.device)
    return (shares[..., None, :, None] * is_digit).sum(dim=-2)
