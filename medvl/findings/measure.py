"""Boxes to evidence: stored pixels, millimetres, patient space, and the side of the body.

All of it comes from geometry. The model's own words about size and side never enter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvl.findings.schema import BOX_UNITS
from medvl.records import Box, PictureGeometry, PlaneName, Side, Slab, Slice, Stack, Vector

# A centre this near to the midline is called midline: the silhouette gives the midline no better.
_MIDLINE_MM = 10.0
_MIDLINE_SHARE = 0.03  # of the body's width; the smaller of the two counts, so that a head is not all midline
_BILATERAL_SHARE = 0.2  # of the body's width that a box must reach beyond the midline, to either side
_EDGE_PX = 1  # resizing may darken the outermost pixel
_WHOLE_SHARE = 0.25  # of the rows, that must show both flanks
_ALONG = 0.7  # cosine of 45°: the picture's horizontal counts as the patient's left–right axis


class Silhouette(NamedTuple):
    """Where the body lies in a picture, from left to right."""

    midline_px: float
    width_px: float


@dataclass(frozen=True, slots=True)
class Place:
    """What geometry says of a box on one slab and its range of slabs. None: the geometry does not say."""

    box_stored_px: tuple[float, float, float, float]
    center_lps_mm: Vector | None
    width_mm: float | None
    height_mm: float | None
    axis_error_mm: float | None
    extent_mm: tuple[float, float] | None

    @property
    def axes_mm(self) -> tuple[float | None, float | None]:
        """The longer and the shorter side of the box."""
        if self.width_mm is None or self.height_mm is None:
            return None, None
        return max(self.width_mm, self.height_mm), min(self.width_mm, self.height_mm)


def find_silhouette(grey: NDArray[np.uint8]) -> Silhouette | None:
    """Find the body in a picture under any window; None where it is not seen, or where one of its flanks is cut off.

    grey: (rows, columns) or (rows, columns, 3).
    The middle of the body is the median over rows of the middle between its two outlines: a table, a blanket or a
    tube fills few rows or lies on both sides, and moves a median little. Rows that reach one edge of the picture alone
    belong to a field of view that leaves a flank out: their middle is not the body's.
    """
    level = grey if grey.ndim == 2 else grey.max(axis=2)
    body = level > _otsu_threshold(level)
    firm = body[:, :-2] & body[:, 1:-1] & body[:, 2:]  # three pixels in a row: noise has no outline
    firm = firm[firm.any(axis=1)]
    if not firm.size:
        return None
    left = firm.argmax(axis=1)
    right = body.shape[1] - firm[:, ::-1].argmax(axis=1)
    width = right - left
    wide = width >= 0.5 * np.percentile(width, 90)
    whole = wide & ((left <= _EDGE_PX) == (right >= body.shape[1] - _EDGE_PX))
    if whole.sum() < _WHOLE_SHARE * wide.sum():
        return None
    return Silhouette(float(np.median((left + right)[whole] / 2)), float(np.median(width[whole])))


def measure_box(box: Box, geometry: PictureGeometry, stack: Stack, first: Slab, last: Slab) -> Place:
    """Measure a box drawn on a picture with this geometry, for a finding that runs from `first` to `last`."""
    left, upper, right, lower = _picture_px(box, geometry.size_px)
    scale = geometry.mm_per_px
    return Place(
        box_stored_px=(*_stored(geometry, left, upper), *_stored(geometry, right, lower)),
        center_lps_mm=_lps(geometry, (left + right) / 2, (upper + lower) / 2),
        width_mm=None if scale is None else (right - left) * scale,
        height_mm=None if scale is None else (lower - upper) * scale,
        axis_error_mm=_axis_error_mm(geometry),
        extent_mm=_extent_mm((*first.slices, *last.slices), stack.slice_spacing_mm),
    )


def judge_side(box: Box, geometry: PictureGeometry, silhouette: Silhouette | None, plane: PlaneName) -> Side | None:
    """Tell on which side of the patient a box lies; None where geometry cannot tell (sagittal, no body seen).

    A projection has no patient space; its left–right axis is taken from the display convention.
    """
    leftward = _leftward(geometry, plane)
    if silhouette is None or not leftward:
        return None
    left_px, _, right_px, _ = _picture_px(box, geometry.size_px)
    low, high = sorted(leftward * (x - silhouette.midline_px) for x in (left_px, right_px))
    reach = _BILATERAL_SHARE * silhouette.width_px
    if low <= -reach and high >= reach:
        return "bilateral"
    center = (low + high) / 2
    if abs(center) <= _midline_tolerance_px(geometry, silhouette):
        return "midline"
    return "left" if center > 0 else "right"


def _midline_tolerance_px(geometry: PictureGeometry, silhouette: Silhouette) -> float:
    share = _MIDLINE_SHARE * silhouette.width_px
    return share if geometry.mm_per_px is None else min(share, _MIDLINE_MM / geometry.mm_per_px)


def _leftward(geometry: PictureGeometry, plane: PlaneName) -> int:
    """Return 1 if the picture's x grows towards the patient's left, -1 if to the right, 0 if neither or unknown."""
    if geometry.lps_from_px is None or not geometry.mm_per_px:
        return 1 if plane == "projection" else 0
    cosine = geometry.lps_from_px[0][0] / geometry.mm_per_px
    return 0 if abs(cosine) < _ALONG else (1 if cosine > 0 else -1)


def _picture_px(box: Box, size_px: int) -> tuple[float, float, float, float]:
    unit = size_px / BOX_UNITS
    return box.x1 * unit, box.y1 * unit, box.x2 * unit, box.y2 * unit


def _axis_error_mm(geometry: PictureGeometry) -> float | None:
    """Return by how much a side of a box may be off though it was drawn as well as it can be.

    Each of its two edges: half a step of the box's grid of 0–1000, and one pixel, since an edge lies somewhere between
    two of them. The pixel is the coarser of the picture's and the stored slice's: enlarging shows no finer edges.
    """
    if geometry.mm_per_px is None:
        return None
    a, b, _, d, e, _ = geometry.stored_from_px
    stored_per_px = min(math.hypot(a, b), math.hypot(d, e))
    pixel_mm = geometry.mm_per_px / min(stored_per_px, 1.0)
    return geometry.size_px / BOX_UNITS * geometry.mm_per_px + 2 * pixel_mm


def _stored(geometry: PictureGeometry, x: float, y: float) -> tuple[float, float]:
    a, b, c, d, e, f = geometry.stored_from_px
    return a * x + b * y + c, d * x + e * y + f


def _lps(geometry: PictureGeometry, x: float, y: float) -> Vector | None:
    if geometry.lps_from_px is None:
        return None
    to_x, to_y, to_z = geometry.lps_from_px
    return (
        to_x[0] * x + to_x[1] * y + to_x[2],
        to_y[0] * x + to_y[1] * y + to_y[2],
        to_z[0] * x + to_z[1] * y + to_z[2],
    )


def _extent_mm(slices: tuple[Slice, ...], slice_spacing_mm: float | None) -> tuple[float, float] | None:
    thickness = slices[0].frame.slice_thickness_mm or slice_spacing_mm
    if thickness is None or slices[0].frame.plane is None:
        return None
    distances = [one.distance_mm for one in slices]
    return min(distances) - thickness / 2, max(distances) + thickness / 2


def _otsu_threshold(level: NDArray[np.uint8]) -> int:
    """Return the grey level that parts a picture in two classes of least spread.

    Source: Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979).
    """
    counts = np.bincount(level.ravel(), minlength=256).astype(np.float64)
    sums = counts * np.arange(256)
    below, sum_below = np.cumsum(counts), np.cumsum(sums)
    above, sum_above = counts.sum() - below, sums.sum() - sum_below
    parted = (below > 0) & (above > 0)
    if not parted.any():
        return 255
    spread = (sum_below * above - sum_above * below) ** 2
    return int(np.argmax(np.where(parted, spread / np.where(parted, below * above, 1), -1)))
