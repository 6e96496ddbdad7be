"""Where findings lie to one another: in one stack by slices and boxes, across stacks and series by patient space.

Knows what was looked at, not what it means; what becomes of two findings at one place is for `merge`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from medvl.records import Box, Finding, Vector

SliceRange = tuple[int, int]  # first and last slice number, inclusive

_NEAR_MM = 5.0  # centres of a small lesion in two readings differ by this much at most
_SAME_BOX_IOU = 0.3  # without millimetres
_TOUCH_MM = 1.0  # extents of two stacks this far apart touch: positions are rounded, patients breathe
_PARALLEL = math.cos(math.radians(15.0))  # planes this near to each other are compared plane by plane


@dataclass(frozen=True, slots=True)
class Scene:
    """One view of a stack that was read: where the stack lies, and what each of its chunks showed."""

    series_uid: str
    view: str
    series_name: str  # "series 3"
    stack: Hashable  # equal for the views of one stack
    frame_of_reference_uid: str
    normal: Vector | None  # that its extents are measured along
    chunks: Mapping[int, tuple[SliceRange, ...]]  # the slices of each picture, by index of the chunk

    @property
    def pictures(self) -> frozenset[SliceRange]:
        """The slices of every picture."""
        return frozenset(picture for pictures in self.chunks.values() for picture in pictures)


class Scenes:
    """All views of a study. Findings of a view that is not among them are taken for those of one stack a series."""

    def __init__(self, scenes: Iterable[Scene] = ()) -> None:
        """scenes: each with a series and a view of its own."""
        self._scenes = {(scene.series_uid, scene.view): scene for scene in scenes}

    def of(self, finding: Finding) -> Scene | None:
        """Return the view in which a finding was seen."""
        return self._scenes.get((finding.series_uid, finding.view))

    def is_same_stack(self, one: Finding, other: Finding) -> bool:
        """Tell whether two findings were seen in one stack, so that their slice numbers mean the same."""
        ours, theirs = self.of(one), self.of(other)
        if ours is None or theirs is None:
            return one.series_uid == other.series_uid
        return ours.stack == theirs.stack

    def is_same_place(self, one: Finding, other: Finding) -> bool:
        """Tell whether two findings may lie at one place: touching along the stack and near in the plane."""
        if self.is_same_stack(one, other):
            touching = one.first_slice <= other.last_slice + 1 and other.first_slice <= one.last_slice + 1
            return touching and _is_near_in_stack(one, other)
        return self._share_space(one, other) and self._is_near_in_space(one, other)

    def _share_space(self, one: Finding, other: Finding) -> bool:
        """Positions of different Frames of Reference (0020,0052) have nothing to do with each other (PS3.3 C.7.4.1)."""
        ours, theirs = self.of(one), self.of(other)
        return (
            ours is not None
            and theirs is not None
            and ours.frame_of_reference_uid == theirs.frame_of_reference_uid
            and (ours.frame_of_reference_uid != "" or one.series_uid == other.series_uid)
        )

    def _is_near_in_space(self, one: Finding, other: Finding) -> bool:
        if _is_far(one, other):
            return False
        ours, theirs = self._body(one), self._body(other)
        if ours is None or theirs is None:
            return False
        allowed_mm = _allowed_mm(one, other)
        way = theirs.middle - ours.middle
        if abs(float(ours.normal @ theirs.normal)) < _PARALLEL:
            return float(np.linalg.norm(way)) <= allowed_mm
        along_mm = float(ours.normal @ way)
        across_mm = float(np.linalg.norm(way - along_mm * ours.normal))
        return across_mm <= allowed_mm and abs(along_mm) <= ours.half_depth_mm + theirs.half_depth_mm + _TOUCH_MM

    def _body(self, finding: Finding) -> _Body | None:
        """Put a finding in space; None where its picture has no place there or no millimetres."""
        scene = self.of(finding)
        if scene is None or scene.normal is None or finding.center_lps_mm is None or finding.extent_mm is None:
            return None
        normal, center = np.asarray(scene.normal), np.asarray(finding.center_lps_mm)
        low, high = finding.extent_mm
        return _Body(center + ((low + high) / 2 - normal @ center) * normal, normal, (high - low) / 2)


@dataclass(frozen=True, slots=True)
class _Body:
    """A finding in patient space."""

    middle: np.ndarray[tuple[int], np.dtype[np.float64]]  # of its box and of its extent
    normal: np.ndarray[tuple[int], np.dtype[np.float64]]
    half_depth_mm: float


def box_area(box: Box) -> float:
    """Return the area of a box in its own units, 0 for one inside out."""
    return max(box.x2 - box.x1, 0) * max(box.y2 - box.y1, 0)


def _is_near_in_stack(one: Finding, other: Finding) -> bool:
    if one.extent_mm is None or other.extent_mm is None:  # neighbours by number only: two X-rays may be two views
        return _picture(one) == _picture(other) and _overlap(one.box, other.box) >= _SAME_BOX_IOU
    apart_mm = _distance_in_plane_mm(one, other)
    if apart_mm is None or one.center_lps_mm is None or other.center_lps_mm is None:
        return _overlap(one.box, other.box) >= _SAME_BOX_IOU
    allowed_mm = _allowed_mm(one, other)
    # Without scenes, stacks of one series in different planes share slice numbers; in space they lie far apart.
    along_mm = (one.depth_mm or math.inf) + (other.depth_mm or math.inf)
    in_space_mm = math.dist(one.center_lps_mm, other.center_lps_mm)
    return apart_mm <= allowed_mm and in_space_mm <= math.hypot(allowed_mm, along_mm)


def _is_far(one: Finding, other: Finding) -> bool:
    """Tell at once what the depths of two findings cannot bridge: most pairs of a study lie far apart."""
    if one.center_lps_mm is None or other.center_lps_mm is None:
        return True
    bridged_mm = 2 * ((one.depth_mm or 0.0) + (other.depth_mm or 0.0)) + _allowed_mm(one, other) + _TOUCH_MM
    return math.dist(one.center_lps_mm, other.center_lps_mm) > bridged_mm


def _allowed_mm(one: Finding, other: Finding) -> float:
    return max(_NEAR_MM, (_diameter_mm(one) + _diameter_mm(other)) / 4)


def _distance_in_plane_mm(one: Finding, other: Finding) -> float | None:
    """Return how far apart the centres of the boxes are; every picture of a stack shows the same field of view."""
    if one.width_mm is None or other.width_mm is None:
        return None
    units = one.box.x2 - one.box.x1 + other.box.x2 - other.box.x1
    return math.dist(_center(one.box), _center(other.box)) * (one.width_mm + other.width_mm) / units


def _picture(finding: Finding) -> tuple[str, int, int]:
    return finding.sop_instance_uid, finding.frame_index, finding.key_slice


def _diameter_mm(finding: Finding) -> float:
    return ((finding.width_mm or 0) + (finding.height_mm or 0)) / 2


def _center(box: Box) -> tuple[float, float]:
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2


def _overlap(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes."""
    common = box_area(Box(max(one.x1, other.x1), max(one.y1, other.y1), min(one.x2, other.x2), min(one.y2, other.y2)))
    return common / (box_area(one) + box_area(other) - common)
