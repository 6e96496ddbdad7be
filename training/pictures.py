"""Makes the pictures of a batch on the GPU: the phantoms' field, noise, window and size, as the pipeline makes them.

The field is `medvl.evaluate`'s own, painted tile by tile: most of the 764 vessels of a phantom are nowhere near a tile,
and leaving them out is what makes this cheaper than the model. Shapes: b chunks of n pictures of s × s stored pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from medvl.evaluate.field import COUNTS, noise_pattern, noise_strength, paint_all
from medvl.evaluate.shapes import Grid, Vessel
from medvl.evaluate.trunk import Effusion, Fluid, Thorax, effusion_share, paint_lungs, paint_trunk

TILE_PX = 64
_NEAREST = {"vessels": 48, "airways": 8, "great_vessels": 8}  # tubes painted into a tile
_LEAST_HU, _MOST_HU = -1024, 3071
_LESION_HU = 200.0  # contrast of a nodule that counts as wholly there in the map of lesions

Scans = Mapping[str, Tensor]


class Shown(NamedTuple):
    """The pictures of a batch. lesion, fluid: what the model's helpers are taught."""

    grey: Tensor  # (b, n, size, size) uint8
    lesion: Tensor  # (b × n, cells, cells) 0 … 1, share of a nodule in cells of 4 px
    fluid: Tensor  # the same for pleural fluid in cells of 8 px


class Painter:
    """Paints batches; what touches every pixel is compiled unless `eager`.

    Each compiled function paints one shape, or two vessels: long kernels take minutes to compile and save little.
    """

    def __init__(self, *, eager: bool = False) -> None:
        def ready(function: Callable[..., Any]) -> Callable[..., Any]:
            return function if eager else compile_for_any_count(function)

        self._one, self._trunk, self._lungs = ready(_paint), ready(_paint_trunk), ready(_paint_lungs)
        self._fluid, self._expose, self._reach = ready(_paint_fluid), ready(expose), ready(_reach_mm)

    def show(self, phantoms: Tensor, scans: Scans, white: Tensor, size_px: int) -> Shown:
        """Make pictures with maps of their lesions, shown at `size_px`.

        white: noise (b, n, s + 2, s + 2) of unit variance, whose size says how many pixels are stored.
        """
        side_px = white.shape[-1] - 2
        field, contrast, strength = self.field(phantoms, scans, side_px)
        grey = self._expose(field, white, strength, _spread(scans), side_px)
        lesion = F.adaptive_avg_pool2d(contrast.flatten(0, 1)[:, None], size_px // 4)[:, 0]
        return Shown(resize(grey, size_px), lesion, _fluid_map(phantoms, scans, side_px, size_px // 8))

    def field(self, phantoms: Tensor, scans: Scans, side_px: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return HU without noise, the part of it that is nodule, and the relative strength of noise: (b, n, s, s).

        The order of painting is that of `medvl.evaluate.field.render`.
        """
        grid = _tiles(scans, side_px)
        near = self._near_shapes(phantoms, scans, grid)
        hu = self._trunk(grid, near["thorax"])
        hu = self._paint("organs", grid, hu, near)
        hu = self._lungs(grid, near["thorax"], hu)
        for name in ("vessels", "airways"):
            hu = self._paint(name, grid, hu, near)
        hu = self._fluid(grid, near["thorax"], near["effusion"], hu)
        for name in ("heart", "great_vessels", "trachea", "spine"):
            hu = self._paint(name, grid, hu, near)
        ill = self._paint("nodules", grid, hu, near)
        contrast = ((ill - hu) / _LESION_HU).clamp(0, 1)
        strength = noise_strength(torch, grid, Thorax(*_leaves(near["thorax"][:, 0])))
        shape = (*scans["heights"].shape, side_px)
        return _joined(ill, shape), _joined(contrast, shape), _joined(strength, shape)

    def _paint(self, name: str, grid: Grid, hu: Tensor, near: dict[str, Tensor]) -> Tensor:
        """Paint the shapes of one group."""
        kind = COUNTS[name][0]
        for shapes in torch.split(near[name], 2 if kind is Vessel else 1, dim=1):
            hu = self._one(kind, grid, hu, shapes.contiguous())
        return hu

    def _near_shapes(self, phantoms: Tensor, scans: Scans, grid: Grid) -> dict[str, Tensor]:
        """Return the shapes each tile is painted with, by group: (tiles, shapes, fields)."""
        groups = split_groups(phantoms[scans["phantom"]])
        groups["thorax"][:, 0, Thorax._fields.index("table_side")] = scans["table_side"]
        tiles = len(grid.z) // len(groups["thorax"])
        boxes = _tile_boxes(grid).view(-1, tiles, 6)
        return {
            name: _nearest(table, boxes, _NEAREST[name], self._reach)
            if name in _NEAREST
            else table.repeat_interleave(tiles, dim=0)
            for name, table in groups.items()
        }


def compile_for_any_count(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function once for all lengths of its tensors' first axis."""
    compiled = torch.compile(function)

    def call(*arguments: Any) -> Any:
        for leaf in tree_leaves(arguments):
            if isinstance(leaf, Tensor):
                torch._dynamo.maybe_mark_dynamic(leaf, 0)
        return compiled(*arguments)

    return call


def split_groups(packed: Tensor) -> dict[str, Tensor]:
    """Return packed phantoms (b, values) as the shapes of each group: (b, shapes, fields)."""
    widths = {name: len(kind._fields) * count for name, (kind, count) in COUNTS.items()}
    parts = torch.split(packed, list(widths.values()), dim=1)
    return {name: part.reshape(len(packed), COUNTS[name][1], -1) for name, part in zip(COUNTS, parts, strict=True)}


def _leaves(fields: Tensor) -> tuple[Tensor, ...]:
    """Return fields (tiles, fields) as leaves that broadcast against a tile's grid."""
    return fields[:, :, None, None].unbind(1)


def _paint(kind: type[Any], grid: Grid, hu: Tensor, shapes: Tensor) -> Tensor:
    painted: Tensor = paint_all(torch, grid, hu, [kind(*_leaves(fields)) for fields in shapes.unbind(1)])
    return painted


def _paint_trunk(grid: Grid, thorax: Tensor) -> Tensor:
    painted: Tensor = paint_trunk(torch, grid, Thorax(*_leaves(thorax[:, 0])))
    return painted


def _paint_lungs(grid: Grid, thorax: Tensor, hu: Tensor) -> Tensor:
    painted: Tensor = paint_lungs(torch, grid, Thorax(*_leaves(thorax[:, 0])), hu)
    return painted


def _paint_fluid(grid: Grid, thorax: Tensor, effusion: Tensor, hu: Tensor) -> Tensor:
    fluid = Fluid(Thorax(*_leaves(thorax[:, 0])), Effusion(*_leaves(effusion[:, 0])))
    painted: Tensor = fluid.over(torch, grid, hu)
    return painted


# --- tiles --------------------------------------------------------------------------------------------------------


def _tiles(scans: Scans, side_px: int) -> Grid:
    """Return the grid of every tile: x (tiles, 1, t), y (tiles, t, 1), z, blur and slab (tiles, 1, 1)."""
    x, y = _axes(scans, side_px)
    chunks, count = scans["heights"].shape
    across = side_px // TILE_PX
    shape = (chunks, count, across, across)
    columns = x.view(chunks, 1, 1, across, TILE_PX).expand(*shape, TILE_PX).reshape(-1, 1, TILE_PX)
    rows = y.view(chunks, 1, across, 1, TILE_PX).expand(*shape, TILE_PX).reshape(-1, TILE_PX, 1)
    heights = scans["heights"].repeat_interleave(across**2)[:, None, None]
    tiles = count * across**2
    return Grid(columns, rows, heights, _per_tile(scans["blur_mm"], tiles), _per_tile(scans["slab_mm"], tiles))


def _axes(scans: Scans, side_px: int) -> tuple[Tensor, Tensor]:
    """Return where columns and rows lie in the phantom, each (b, s); mirrored chunks see it the other way round."""
    steps = torch.arange(side_px, device=scans["pixel_mm"].device) - 0.5 * (side_px - 1)
    offsets = scans["pixel_mm"][:, None] * steps
    sign = 1 - 2 * scans["mirrored"][:, None]
    return sign * (scans["middle_mm"][:, :1] + offsets), scans["middle_mm"][:, 1:] + offsets


def _per_tile(values: Tensor, tiles: int) -> Tensor:
    return values.repeat_interleave(tiles)[:, None, None]


def _joined(tiles: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return tiles as pictures (b, n, s, s)."""
    chunks, count, side_px = shape
    across = side_px // TILE_PX
    grid = tiles.view(chunks, count, across, across, TILE_PX, TILE_PX).transpose(3, 4)
    return grid.reshape(chunks, count, side_px, side_px)


def _tile_boxes(grid: Grid) -> Tensor:
    """Return what each tile can see: lowest x, y, z, highest x, y, z."""
    reach = 0.5 * (grid.slab_mm + grid.blur_mm).flatten()
    ends = [grid.x[:, 0, 0], grid.x[:, 0, -1]], [grid.y[:, 0, 0], grid.y[:, -1, 0]], [grid.z.flatten()] * 2
    low = [torch.minimum(*pair) - reach for pair in ends]
    high = [torch.maximum(*pair) + reach for pair in ends]
    return torch.stack([*low, *high], dim=1)


def _nearest(table: Tensor, boxes: Tensor, count: int, reach: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the `count` tubes nearest to each tile, in their own order: (tiles, count, fields)."""
    chosen = reach(table, boxes).topk(count, dim=2, largest=False, sorted=False).indices.sort(dim=2).values
    picked = table.gather(1, chosen.flatten(1)[:, :, None].expand(-1, -1, table.shape[2]))
    return picked.view(-1, count, table.shape[2])


def _reach_mm(table: Tensor, boxes: Tensor) -> Tensor:
    """Return how far each tube is from each tile: (b, tiles, tubes); of those that touch it, the thickest first."""
    wall = table[..., 8] if table.shape[2] == 11 else 0.0 * table[..., 8]
    radius = table[..., 6:8].amax(-1) + wall
    score = -1e-3 * radius[:, None]
    apart = torch.zeros_like(score)
    for axis in range(3):
        ends = table[..., axis], table[..., axis + 3]
        low, high = torch.minimum(*ends) - radius, torch.maximum(*ends) + radius
        under = low[:, None] - boxes[:, :, axis + 3, None]
        over = boxes[:, :, axis, None] - high[:, None]
        apart = apart.maximum(under).maximum(over)
    return apart + score


# --- from HU to grey ----------------------------------------------------------------------------------------------


def _spread(scans: Scans) -> dict[str, Tensor]:
    """Return what exposure needs, ready to be spread over pictures (b, n, s, s)."""
    names = ("noise_hu", "grain", "circle", "blank")
    return {name: scans[name].view(-1, 1, 1, 1) for name in names} | {
        "center": scans["window"][:, 0].view(-1, 1, 1, 1),
        "width": scans["window"][:, 1].view(-1, 1, 1, 1),
    }


def expose(field: Tensor, white: Tensor, strength: Tensor, scan: Scans, side_px: int) -> Tensor:
    """Return grey levels 0 … 255, still as floats: noise, stored integers, window (PS3.3 C.11.2.1.2.1), padding."""
    hu = field + scan["noise_hu"] * strength * noise_pattern(white, scan["grain"])
    hu = hu.clamp(_LEAST_HU, _MOST_HU).round()
    low = scan["center"] - 0.5 - 0.5 * (scan["width"] - 1)
    grey = (((hu - low) / (scan["width"] - 1)).clamp(0, 1) * 255 + 0.5).floor()
    steps = torch.arange(side_px, device=field.device) - 0.5 * (side_px - 1)
    outside = steps[:, None] ** 2 + steps**2 > (0.5 * side_px) ** 2
    hidden = (outside & (scan["circle"] > 0)) | (scan["blank"] > 0)
    return torch.where(hidden, 0.0, grey)


def resize(grey: Tensor, size_px: int) -> Tensor:
    """Return pictures (b, n, size, size) uint8, resized as the pipeline does: bicubic, widened when shrinking."""
    if grey.shape[-1] != size_px:
        grey = F.interpolate(grey, (size_px, size_px), mode="bicubic", antialias=True, align_corners=False)
    return grey.round().clamp(0, 255).to(torch.uint8)


def _fluid_map(phantoms: Tensor, scans: Scans, side_px: int, cells: int) -> Tensor:
    """Return the share of pleural fluid in the middle of each cell: (b × n, cells, cells)."""
    coarse = dict(scans) | {"pixel_mm": scans["pixel_mm"] * side_px / cells}
    x, y = _axes(coarse, cells)
    chunks = len(x)
    grid = Grid(
        x.view(chunks, 1, 1, cells),
        y.view(chunks, 1, cells, 1),
        scans["heights"][:, :, None, None],
        coarse["pixel_mm"].view(-1, 1, 1, 1),
        scans["slab_mm"].view(-1, 1, 1, 1),
    )
    groups = split_groups(phantoms[scans["phantom"]])
    thorax, effusion = (groups[name][:, 0, :, None, None, None].unbind(1) for name in ("thorax", "effusion"))
    share: Tensor = effusion_share(torch, grid, Thorax(*thorax), Effusion(*effusion))
    return share.flatten(0, 1)
