"""Phantoms with everything that a question about a part of them needs to know. Numpy only, one process' work.

What a scan of a chunk really shows follows from geometry alone: a lesion counts as seen where it changes enough HU over
enough millimetres, and what is neither seen nor unseen beyond doubt is never asked about.
Lengths are millimetres in the phantom's own axes (LPS less its origin).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medvl.evaluate.phantoms import NODULE_KINDS, Lesion, LesionKind, Phantom, draw_phantom
from medvl.evaluate.shapes import Grid, Nodule
from medvl.evaluate.trunk import Effusion, Thorax, effusion_share

Heights = NDArray[np.float64]  # z of the pictures of a chunk, from the head downwards
MmBox = tuple[float, float, float, float]  # left, upper, right, lower
BodySide = Literal["left", "right"]

ILL_SHARE = 0.56  # of phantoms as `draw_phantom` draws them that have a lesion
_NEXT_SEED = 1 << 41  # to another phantom of the same seed
_SEEN = 500.0  # HU of contrast × mm of diameter from which a nodule is seen without doubt
_UNSEEN = 250.0  # and below which nobody sees it
_SECTION_SHARE = 0.25  # of the contrast in its best picture that a nodule has in its first and last one
_VEILED = 0.4  # of a nodule's points inside vessels or fluid, above which it cannot be told from them
_FLUID_SEEN_MM2, _FLUID_UNSEEN_MM2 = 400.0, 100.0
_FLUID_STEP_MM = 5.0
_POINTS = np.array([p for p in np.ndindex(3, 3, 3)], dtype=float) * 0.55 - 0.55  # within the unit ball, but its corners


@dataclass(frozen=True, slots=True)
class Sight:
    """One lesion as a chunk shows it. Pictures count from 0; the box is that of `key`."""

    kind: LesionKind
    side: BodySide
    key: int
    first: int
    last: int
    box: MmBox
    diameter_mm: float


@dataclass(frozen=True, slots=True)
class Round:
    """A nodule with what surrounds it."""

    kind: LesionKind
    side: BodySide
    shape: Nodule
    lung_hu: float
    veiled: bool  # by vessels or fluid of like density


@dataclass(frozen=True, slots=True)
class FluidProfile:
    """The sections of an effusion, from the lowest."""

    side: BodySide
    heights: Heights
    areas_mm2: NDArray[np.float64]
    boxes: NDArray[np.float64]  # (sections, 4)


@dataclass(frozen=True, slots=True)
class Case:
    """A phantom, its nodules and its fluid."""

    phantom: Phantom
    nodules: tuple[Round, ...]
    fluid: FluidProfile | None


def draw_case(seed: int, enriched: bool) -> Case:
    """Draw a phantom as studies have them; enriched: the first one that has a lesion."""
    phantom = next(one for one in _draw_phantoms(seed) if one.lesions or not enriched)
    scene = phantom.scene
    lesions = [one for one in phantom.lesions if one.kind in NODULE_KINDS]
    nodules = tuple(_surround(phantom, lesion, shape) for lesion, shape in zip(lesions, scene.nodules, strict=False))
    fluid = _fluid_profile(scene.thorax, scene.effusion) if scene.effusion.depth_mm > 0 else None
    return Case(phantom, nodules, fluid)


def _draw_phantoms(seed: int) -> Iterator[Phantom]:
    """Draw the phantoms of a seed one by one; one whose nodules find no room in the lung is left out."""
    for number in count():
        with suppress(ValueError):
            yield draw_phantom(seed + number * _NEXT_SEED)


def weigh_case(case: Case, enriched: float) -> float:
    """Return how often studies have such a phantom over how often it is drawn, if that share is drawn enriched."""
    drawn = enriched / ILL_SHARE * bool(case.phantom.lesions) + 1 - enriched
    return 1 / drawn


def _surround(phantom: Phantom, lesion: Lesion, shape: Nodule) -> Round:
    thorax = phantom.scene.thorax
    lung_hu = float(thorax.lung_hu + 0.5 * thorax.lung_gradient * shape.y / thorax.cage_depth)
    return Round(lesion.kind, lesion.side, shape, lung_hu, veil(phantom, shape) > _VEILED)


def veil(phantom: Phantom, nodule: Nodule) -> float:
    """Return the share of a nodule's points that lie in a lung vessel or in pleural fluid."""
    scene = phantom.scene
    points = np.array([nodule.x, nodule.y, nodule.z]) + _POINTS * (nodule.rx, nodule.ry, nodule.rz)
    tubes: NDArray[np.float64] = np.array(scene.vessels)
    start, course, radius = tubes[:, :3], tubes[:, 3:6] - tubes[:, :3], tubes[:, 6:8]
    offset = points[:, None] - start
    along = np.clip((offset * course).sum(-1) / ((course**2).sum(-1) + 1e-6), 0, 1)
    apart = np.linalg.norm(offset - along[..., None] * course, axis=-1)
    inside = (apart < radius[:, 0] + along * (radius[:, 1] - radius[:, 0])).any(axis=1)
    if scene.effusion.depth_mm > 0:
        x, y, z = points.T
        grid = Grid(x, y, z, np.float64(1), np.float64(1))
        inside |= effusion_share(np, grid, scene.thorax, scene.effusion) > 0.5
    return float(inside.mean())


def _fluid_profile(thorax: Thorax, effusion: Effusion) -> FluidProfile:
    step = _FLUID_STEP_MM
    x = np.arange(-thorax.cage_width, thorax.cage_width, step)
    y = np.arange(-thorax.cage_depth, thorax.cage_depth, step)
    z = np.arange(-250.0, effusion.top, step)
    grid = Grid(x[None, None], y[None, :, None], z[:, None, None], np.float64(step), np.float64(step))
    share = effusion_share(np, grid, thorax, effusion)
    boxes = np.stack([*_span(x, share.max(axis=1), step), *_span(y, share.max(axis=2), step)], axis=1)
    side: BodySide = "left" if effusion.side > 0 else "right"
    return FluidProfile(side, z, share.sum(axis=(1, 2)) * step**2, boxes[:, [0, 2, 1, 3]])


def _span(axis: NDArray[np.float64], share: NDArray[np.float64], step: float) -> tuple[NDArray[np.float64], ...]:
    """Return the lowest and highest place along an axis with fluid, for each section; its border cells in part."""
    inside = share > 0.25
    low, high = inside.argmax(axis=1), inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    rows = np.arange(len(share))
    low_mm = axis[low] + step * (0.5 - np.clip(share[rows, low], 0, 1))
    high_mm = axis[high] - step * (0.5 - np.clip(share[rows, high], 0, 1))
    return low_mm, high_mm


# --- what a chunk shows -------------------------------------------------------------------------------------------


def list_sights(case: Case, heights: Heights, slab_mm: float) -> tuple[Sight, ...] | None:
    """Return what pictures at these heights show, by picture and from left to right; None if that is in doubt."""
    sights: list[Sight] = []
    for nodule in case.nodules:
        seen = see_nodule(nodule, heights, slab_mm)
        if seen == "in doubt":
            return None
        if seen is not None:
            sights.append(seen)
    if case.fluid is not None:
        fluid = see_fluid(case.fluid, heights)
        if fluid == "in doubt":
            return None
        if fluid is not None:
            sights.append(fluid)
    return tuple(sights)


def see_nodule(nodule: Round, heights: Heights, slab_mm: float) -> Sight | Literal["in doubt"] | None:
    """Return how a chunk shows a nodule; None where it does not."""
    shape = nodule.shape
    contrast = _share(shape, heights, slab_mm) * abs(shape.hu - nodule.lung_hu)
    width, height = section_radii(shape, heights, slab_mm)
    strength = contrast * (width + height)
    if strength.max() < _UNSEEN:
        return None
    if strength.max() < _SEEN or nodule.veiled:
        return "in doubt"
    key = int(np.abs(heights - shape.z).argmin())
    shown = np.flatnonzero(contrast >= _SECTION_SHARE * contrast.max())
    box = (shape.x - width[key], shape.y - height[key], shape.x + width[key], shape.y + height[key])
    first, last = min(int(shown[0]), key), max(int(shown[-1]), key)
    return Sight(nodule.kind, nodule.side, key, first, last, box, float(width[key] + height[key]))


def section_radii(nodule: Nodule, heights: Heights, slab_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return half the width and half the height of the box around a nodule in each picture; 0 where it is not met."""
    beyond = np.maximum(np.abs(heights - nodule.z) - 0.5 * slab_mm, 0) / nodule.rz
    narrow = np.sqrt(np.clip(1 - beyond**2, 0, 1))
    half_width = np.hypot(nodule.rx * nodule.cosine, nodule.ry * nodule.sine)
    half_height = np.hypot(nodule.rx * nodule.sine, nodule.ry * nodule.cosine)
    return narrow * half_width, narrow * half_height


def _share(nodule: Nodule, heights: Heights, slab_mm: float) -> NDArray[np.float64]:
    """Return the part of each picture's thickness that the nodule fills along its axis."""
    low = np.maximum(nodule.z - nodule.rz, heights - 0.5 * slab_mm)
    high = np.minimum(nodule.z + nodule.rz, heights + 0.5 * slab_mm)
    return np.asarray(np.clip((high - low) / slab_mm, 0, 1))


def see_fluid(fluid: FluidProfile, heights: Heights) -> Sight | Literal["in doubt"] | None:
    """Return how a chunk shows an effusion; None where it does not."""
    areas = np.interp(heights, fluid.heights, fluid.areas_mm2, left=0, right=0)
    if areas.max() < _FLUID_UNSEEN_MM2:
        return None
    if areas.max() < _FLUID_SEEN_MM2:
        return "in doubt"
    key = int(areas.argmax())
    shown = np.flatnonzero(areas >= _FLUID_UNSEEN_MM2)
    box = fluid.boxes[int(np.abs(fluid.heights - heights[key]).argmin())]
    left, upper, right, lower = (float(value) for value in box)
    sides = (left, upper, right, lower)
    return Sight("pleural effusion", fluid.side, key, int(shown[0]), int(shown[-1]), sides, lower - upper)


def mirror(sights: Sequence[Sight]) -> tuple[Sight, ...]:
    """Return the sights of the mirrored patient."""
    other: dict[BodySide, BodySide] = {"left": "right", "right": "left"}
    turned = []
    for one in sights:
        left, upper, right, lower = one.box
        turned.append(replace(one, side=other[one.side], box=(-right, upper, -left, lower)))
    return tuple(turned)
