"""A phantom's parameters as one flat vector, and the HU field they make on any grid.

`render` is written once. With numpy it paints one slice and touches only the pixels a shape can reach; with torch it
paints a batch of stacks, every shape everywhere, in a few graphs that compile (pass `torch.compile(paint_all)`).
A training pool is the matrix of many `pack`ed phantoms: a batch is `unpack(pool[:, chosen, None, None, None])`, views
of one gather. Counts are fixed, so all vectors have one length; what a phantom lacks lies far outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvl.evaluate.shapes import Airway, Array, Grid, Namespace, Nodule, Organ, Shape, Vessel
from medvl.evaluate.trunk import Effusion, Fluid, Spine, Thorax, paint_lungs, paint_trunk

LUNG_VESSELS = 2 * (255 + 127)  # in each lung, arteries with 128 tips and veins with 64
# Shapes painted by one call: few enough to compile in seconds. Counts are multiples of it where they exceed it, so that
# a kind is compiled once.
GROUP = 8
_FAR_MM = 1e5


class Scene(NamedTuple):
    """Everything that is painted. Leaves are numbers, or arrays that broadcast against a grid."""

    thorax: Thorax
    effusion: Effusion
    organs: tuple[Organ, ...]  # below the diaphragm, and the shoulder blades
    heart: tuple[Organ, ...]  # with its fat, from outside inwards
    great_vessels: tuple[Vessel, ...]  # clavicles and oesophagus as well
    trachea: tuple[Airway, ...]  # and the main bronchi
    airways: tuple[Airway, ...]  # of the lungs
    spine: tuple[Spine, ...]
    nodules: tuple[Nodule, ...]
    vessels: tuple[Vessel, ...]  # of the lungs


COUNTS: dict[str, tuple[type[Any], int]] = {
    "thorax": (Thorax, 1),
    "effusion": (Effusion, 1),
    "organs": (Organ, 8),
    "heart": (Organ, 8),
    "great_vessels": (Vessel, 24),
    "trachea": (Airway, 3),
    "airways": (Airway, 32),
    "spine": (Spine, 1),
    "nodules": (Nodule, 4),
    "vessels": (Vessel, LUNG_VESSELS),
}
_SINGLE = ("thorax", "effusion")
_FIXED = sum(len(kind._fields) * count for name, (kind, count) in COUNTS.items() if name != "vessels")
_VESSEL = len(Vessel._fields)

Painter = Callable[[Namespace, Grid, Array, Sequence[Shape]], Array]


def absent(kind: type[Any]) -> Any:
    """Return a shape of `kind` so far away that it is never seen."""
    sizes = {"x": _FAR_MM, "x0": _FAR_MM, "x1": _FAR_MM + 1, "depth_mm": 0.0, "top": -_FAR_MM}
    return kind(*(sizes.get(name, 1.0) for name in kind._fields))


def pack(scene: Scene) -> NDArray[np.float32]:
    """Return the scene as one vector, short groups filled up with absent shapes.

    Raises ValueError if a group has more shapes than the layout holds.
    """
    parts: list[float] = []
    for name, (kind, count) in COUNTS.items():
        shapes = (getattr(scene, name),) if name in _SINGLE else getattr(scene, name)
        if len(shapes) > count:
            raise ValueError(f"{len(shapes)} {name} where at most {count} fit")
        for shape in (*shapes, *[absent(kind)] * (count - len(shapes))):
            parts.extend(shape)
    return np.array(parts, dtype=np.float32)


def unpack(values: Array) -> Scene:
    """Return views of `values`, (length, …), as a scene whose leaves have the remaining shape."""
    groups: dict[str, Any] = {}
    start = 0
    for name, (kind, count) in COUNTS.items():
        width = len(kind._fields)
        if name == "vessels":  # the last group; `keep_vessels` may have thinned it
            count = (len(values) - _FIXED) // _VESSEL
        shapes = tuple(kind(*values[start + i * width : start + (i + 1) * width]) for i in range(count))
        groups[name] = shapes[0] if name in _SINGLE else shapes
        start += count * width
    return Scene(**groups)


def keep_vessels(values: Array, low_mm: Array, high_mm: Array, count: int) -> Array:
    """Return packed phantoms with only the `count` lung vessels nearest to a range of z.

    values: tensor (length, batch); low_mm, high_mm: (batch,), less the phantom's origin. A short stack meets a small
    part of the tree, and every vessel costs a pass over every voxel of a batch.
    """
    table = values[_FIXED:].reshape(-1, _VESSEL, values.shape[1]).permute(2, 0, 1)
    bottom = table[:, :, 2].minimum(table[:, :, 5]) - high_mm[:, None]
    top = low_mm[:, None] - table[:, :, 2].maximum(table[:, :, 5])
    thin = -1e-3 * table[:, :, 6]  # among those inside the range, the thickest first
    order = (bottom.maximum(top).clamp(min=0) + thin).argsort(dim=1)[:, :count]
    kept = table.gather(1, order[:, :, None].expand(-1, -1, _VESSEL))
    rows = kept.permute(1, 2, 0).reshape(-1, values.shape[1])
    thinned = values[: _FIXED + len(rows)].clone()
    thinned[_FIXED:] = rows
    return thinned


def render(xp: Namespace, scene: Scene, grid: Grid, paint: Painter) -> Array:
    """Return the scene's HU on the grid, without noise.

    The order is anatomy's: what is painted later lies inside or in front of what came before.
    """
    hu = paint_trunk(xp, grid, scene.thorax)
    hu = _paint_groups(xp, grid, hu, scene.organs, paint)
    hu = paint_lungs(xp, grid, scene.thorax, hu)
    fluid = (Fluid(scene.thorax, scene.effusion),)
    lungs = (scene.vessels, scene.airways, fluid)
    for shapes in (*lungs, scene.heart, scene.great_vessels, scene.trachea, scene.spine, scene.nodules):
        hu = _paint_groups(xp, grid, hu, shapes, paint)
    return hu


def _paint_groups(xp: Namespace, grid: Grid, hu: Array, shapes: Sequence[Shape], paint: Painter) -> Array:
    for start in range(0, len(shapes), GROUP):
        hu = paint(xp, grid, hu, shapes[start : start + GROUP])
    return hu


def paint_all(xp: Namespace, grid: Grid, hu: Array, shapes: Sequence[Shape]) -> Array:
    """Paint shapes over every voxel; for batches and compilers."""
    for shape in shapes:
        hu = shape.over(xp, grid, hu)
    return hu


def paint_near(xp: Namespace, grid: Grid, hu: Array, shapes: Sequence[Shape]) -> Array:
    """Paint shapes over the pixels they can reach, in place; for one slice of one phantom."""
    for shape in shapes:
        low_x, low_y, low_z, high_x, high_y, high_z = shape.box()
        reach = 0.5 * (grid.slab_mm + grid.blur_mm)  # in plane as well: the border of what leans is as wide
        if not low_z - reach < grid.z < high_z + reach:
            continue
        columns = _span(grid.x[0], low_x - reach, high_x + reach)
        rows = _span(grid.y[:, 0], low_y - reach, high_y + reach)
        part = grid._replace(x=grid.x[:, columns], y=grid.y[rows])
        hu[rows, columns] = shape.over(xp, part, hu[rows, columns])
    return hu


def _span(positions: NDArray[np.float32], low: float, high: float) -> slice:
    """Return the run of `positions`, rising or falling, that lies between two values."""
    inside = np.flatnonzero((positions >= low) & (positions <= high))
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0)


def noise_pattern(white: Array, grain: Array) -> Array:
    """Return noise of unit variance with the grain of a reconstruction kernel.

    white: (…, rows + 2, columns + 2), unit variance and independent. grain: weight of a pixel's four neighbours;
    above 0 for soft kernels, below 0 for sharp ones.
    """
    beside = white[..., 1:-1, :-2] + white[..., 1:-1, 2:] + white[..., :-2, 1:-1] + white[..., 2:, 1:-1]
    return (white[..., 1:-1, 1:-1] + grain * beside) / (1 + 4 * grain**2) ** 0.5


def noise_strength(xp: Namespace, grid: Grid, thorax: Thorax) -> Array:
    """Return the relative strength of noise: most where rays cross most tissue."""
    x, y = grid.x / thorax.half_width, (grid.y - thorax.middle_y) / thorax.half_depth
    return xp.clip(1.25 - 0.5 * (x * x + y * y), 0.35, 1.2) + 0 * grid.z
