"""Draws synthetic chests with known lesions: the same seed, the same phantom.

A phantom knows its anatomy and its lesions, not how it was scanned; `acquisition` and `write` turn it into a study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medvl.evaluate.anatomy import Points, draw_scene, lung_points
from medvl.evaluate.field import COUNTS, Scene, pack, unpack
from medvl.evaluate.shapes import Grid, Nodule
from medvl.evaluate.trunk import Effusion, effusion_share
from medvl.records import Vector

LesionKind = Literal["solid nodule", "ground-glass nodule", "calcified nodule", "pleural effusion"]
NODULE_KINDS: tuple[LesionKind, ...] = ("solid nodule", "ground-glass nodule", "calcified nodule")
MAX_NODULES = COUNTS["nodules"][1]

_HU_RANGES: dict[LesionKind, tuple[float, float]] = {
    "solid nodule": (-50, 80),
    "ground-glass nodule": (-700, -450),
    "calcified nodule": (200, 900),
    "pleural effusion": (0, 25),
}
_KIND_ODDS = (0.6, 0.25, 0.15)  # of the three kinds of nodule
_DIAMETER_RANGE_MM = (4.0, 30.0)
_EFFUSION_RANGE_MM = (10.0, 45.0)
_APART_MM = 12.0  # least distance between the surfaces of two nodules


@dataclass(frozen=True, slots=True)
class Wish:
    """A lesion to be drawn. None: whatever comes."""

    kind: LesionKind
    diameter_mm: float | None = None
    side: Literal["left", "right"] | None = None


@dataclass(frozen=True, slots=True)
class Lesion:
    """The truth about one lesion.

    diameter_mm: of a nodule, the mean of its long and short axis in the axial plane; of an effusion, its greatest
    depth. extent_mm: lowest and highest z it reaches. An effusion's centre is its centre of mass.
    """

    kind: LesionKind
    center_lps_mm: Vector
    diameter_mm: float
    side: Literal["left", "right"]
    hu: float
    extent_mm: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic chest. values: the packed scene, in LPS less origin_lps_mm."""

    seed: int
    values: NDArray[np.float32]
    origin_lps_mm: Vector
    lesions: tuple[Lesion, ...]

    @cached_property
    def scene(self) -> Scene:
        """The anatomy and lesions as shapes."""
        return unpack(self.values)


def draw_phantom(seed: int, lesions: Sequence[Wish] | Literal["auto"] = "auto") -> Phantom:
    """Draw a phantom.

    lesions: what it shall have; "auto" draws 44 % normal chests, else one to four nodules, an effusion, or both.
    Raises ValueError if more is wished than a phantom holds, or if a nodule finds no room in the lung.
    """
    rng = np.random.default_rng([seed, 0])
    scene = draw_scene(rng)
    origin = rng.uniform((-10, -30, -900), (10, 10, -100)).round(1)
    wishes = _draw_wishes(rng) if lesions == "auto" else tuple(lesions)
    nodules: list[tuple[LesionKind, Nodule]] = []
    effusion = scene.effusion
    for wish in sorted(wishes, key=lambda wish: -(wish.diameter_mm or 0)):
        if wish.kind == "pleural effusion":
            effusion = _draw_effusion(rng, scene, wish)
        else:
            nodules.append((wish.kind, _place_nodule(rng, scene, wish, [nodule for _, nodule in nodules])))
    scene = scene._replace(nodules=tuple(nodule for _, nodule in nodules), effusion=effusion)
    found = [_nodule_truth(scene, kind, nodule, origin) for kind, nodule in nodules]
    if effusion.depth_mm > 0:
        found.append(_effusion_truth(scene, origin))
    return Phantom(seed, pack(scene), _vector(origin), tuple(found))


def _draw_wishes(rng: np.random.Generator) -> tuple[Wish, ...]:
    nodules, effusion = rng.choice([(0, 0), (1, 0), (0, 1), (1, 1)], p=(0.44, 0.32, 0.12, 0.12))
    wishes = []
    for _ in range(int(nodules) * int(rng.integers(1, MAX_NODULES + 1))):
        low, high = np.log(_DIAMETER_RANGE_MM)
        kind = NODULE_KINDS[rng.choice(len(NODULE_KINDS), p=_KIND_ODDS)]
        wishes.append(Wish(kind, float(np.exp(rng.uniform(low, high)))))
    return (*wishes, *[Wish("pleural effusion")] * int(effusion))


def _place_nodule(rng: np.random.Generator, scene: Scene, wish: Wish, others: list[Nodule]) -> Nodule:
    diameter = wish.diameter_mm or float(rng.uniform(*_DIAMETER_RANGE_MM))
    radii = 0.5 * diameter * rng.uniform(0.88, 1.12, 3)
    radii[:2] *= diameter / radii[:2].sum()
    points = lung_points(rng, scene, margin_mm=float(radii.max()) + 1, count=4000)
    for point in rng.permutation(points):
        if _suits(scene, point, wish, float(radii.max()), others):
            angle = rng.uniform(0, np.pi)
            soft_mm = 2.0 if wish.kind == "ground-glass nodule" else 0.3
            hu = rng.uniform(*_HU_RANGES[wish.kind])
            return Nodule._make((*point, *radii, np.cos(angle), np.sin(angle), soft_mm, hu))
    raise ValueError(f"no room in the lung for a {wish.kind} of {diameter:.0f} mm")


def _suits(scene: Scene, point: Points, wish: Wish, radius: float, others: list[Nodule]) -> bool:
    apart = all(
        np.hypot(np.hypot(point[0] - other.x, point[1] - other.y), point[2] - other.z)
        > radius + max(other.rx, other.ry, other.rz) + _APART_MM
        for other in others
    )
    return apart and wish.side in (None, _side(scene, point[0]))


def _side(scene: Scene, x: float) -> Literal["left", "right"]:
    return "left" if x > scene.thorax.middle_x else "right"


def _draw_effusion(rng: np.random.Generator, scene: Scene, wish: Wish) -> Effusion:
    side = wish.side or ("left" if rng.random() < 0.5 else "right")
    depth = wish.diameter_mm or float(rng.uniform(*_EFFUSION_RANGE_MM))
    base = max(scene.thorax.left_dome, scene.thorax.right_dome)
    height = 60 + 2.5 * depth
    return Effusion(1.0 if side == "left" else -1.0, depth, base + height - 40, height, rng.uniform(0, 25))


def _nodule_truth(scene: Scene, kind: LesionKind, nodule: Nodule, origin: Points) -> Lesion:
    center = np.array([nodule.x, nodule.y, nodule.z]) + origin
    return Lesion(
        kind=kind,
        center_lps_mm=_vector(center),
        diameter_mm=round(float(nodule.rx + nodule.ry), 2),
        side=_side(scene, nodule.x),
        hu=round(float(nodule.hu), 1),
        extent_mm=(round(float(center[2] - nodule.rz), 2), round(float(center[2] + nodule.rz), 2)),
    )


def _effusion_truth(scene: Scene, origin: Points) -> Lesion:
    thorax, effusion, step = scene.thorax, scene.effusion, 5.0
    x = np.arange(-thorax.cage_width, thorax.cage_width, step)[None, None]
    y = np.arange(-thorax.cage_depth, thorax.cage_depth, step)[None, :, None]
    z = np.arange(-260.0, effusion.top, step)[:, None, None]
    share = effusion_share(np, Grid(x, y, z, np.float64(step), np.float64(step)), thorax, effusion)
    center = [float((axis * share).sum() / share.sum()) for axis in (x, y, z)]
    reached = z.ravel()[share.sum(axis=(1, 2)) * step**2 > 100]  # more than 1 cm² of the section
    return Lesion(
        kind="pleural effusion",
        center_lps_mm=_vector(center + origin),
        diameter_mm=round(float(effusion.depth_mm), 2),
        side="left" if effusion.side > 0 else "right",
        hu=round(float(effusion.hu), 1),
        extent_mm=(round(float(reached[0] + origin[2]), 2), round(float(reached[-1] + origin[2]), 2)),
    )


def _vector(point: Points) -> Vector:
    x, y, z = (round(float(value), 2) for value in point)
    return x, y, z
