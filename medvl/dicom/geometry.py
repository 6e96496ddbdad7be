"""Puts the frames of a series in order by where they lie in the patient. Pure arithmetic on records; no disk.

Reading order: axial from the head down, coronal from anterior, sagittal from the patient's right.
`distance_mm` runs along the stack's normal, turned to the nearest positive patient axis: for an untilted axial stack
it is z (towards the head), for a coronal one y (posterior), for a sagittal one x (left).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medvl.dicom.splitting import AtPlace, Part, split_places
from medvl.records import (
    DisplayTurn,
    Frame,
    Gap,
    Plane,
    PlaneName,
    Series,
    Slab,
    Slice,
    Stack,
    Straightening,
    Unread,
    Vector,
)

PROJECTION_MODALITIES = frozenset({"CR", "DX", "DR", "RG", "MG", "PX", "XA", "RF"})
OBLIQUE_FROM_DEGREES = 30.0
GAP_FROM_SPACINGS = 1.5
DUPLICATE_WITHIN_SPACINGS = 0.1
JITTER_FROM_THICKNESS = 0.05
DUPLICATE_WITHIN_MM = 0.01  # positions are decimal strings; scanners round to this or finer
TILT_FROM_DEGREES = 0.5
TILT_TO_DEGREES = 35.0  # gantries tilt by 30° at most; slices that drift further apart are no tilted acquisition
_FRONTAL_VIEWS = frozenset({"", "AP", "PA"})  # of (0018,5101) View Position; empty: taken as most are
AUTO_SLAB_MM = 3.0  # about what radiologists read; thinner slices are averaged so that none is skipped
AUTO_SLAB_BELOW_MM = 2.0
_Direction = Sequence[float] | NDArray[np.float64]
_SAME_DIRECTION = math.cos(math.radians(1.0))  # frames of one stack may differ by rounding only
_SAME_SPACING = 1e-3

# By patient axis that the normal is nearest to: plane, and what the viewer has to the right and below.
_LEFT, _POSTERIOR, _HEAD = np.eye(3)
_DISPLAYS: tuple[tuple[PlaneName, NDArray[np.float64], NDArray[np.float64]], ...] = (
    ("sagittal", _POSTERIOR, -_HEAD),
    ("coronal", _LEFT, -_HEAD),
    ("axial", _LEFT, _POSTERIOR),
)
_LETTERS = {"L": _LEFT, "R": -_LEFT, "P": _POSTERIOR, "A": -_POSTERIOR, "H": _HEAD, "F": -_HEAD}


def stack_series(series: Series) -> tuple[tuple[Stack, ...], tuple[Unread, ...]]:
    """Put the frames of a series in order.

    Frames of different orientation, matrix or pixel spacing go to stacks of their own, the largest first; so do frames
    at the same positions that a trait tells apart, such as phases, b-values or echoes.
    Returns the stacks, and the frames left out because another lies at the same position and nothing tells them apart.
    """
    groups = sorted(_groups(series.frames), key=len, reverse=True)
    stacks, unread = [], []
    for group in groups:
        for part in _parts(group):
            stack, left_out = _stack_of(series, part.frames)
            stacks.append(replace(stack, apart=part.apart))
            unread.extend(left_out)
    return tuple(stacks), tuple(unread)


def auto_slab_mm(stack: Stack) -> float | None:
    """Choose how thick slabs are: thin slices are averaged to about 3 mm, others shown one by one (None)."""
    spacing = stack.slice_spacing_mm
    return AUTO_SLAB_MM if spacing is not None and spacing < AUTO_SLAB_BELOW_MM else None


def unit_normal(plane: Plane) -> Vector:
    """Return the unit normal of a plane, turned to the positive end of the patient axis it is nearest to.

    Distances along a stack, `Slice.distance_mm`, are measured along it.
    """
    x, y, z = (float(each) for each in _normal(plane))
    return x, y, z


def slabs(stack: Stack, slab_mm: float | None) -> tuple[Slab, ...]:
    """Cut a stack into slabs of about `slab_mm`, every slice in exactly one; None: one slice each.

    A slab never spans a gap, so that one before a gap, like the last, may be thinner.
    """
    per_slab = 1
    if slab_mm is not None and stack.slice_spacing_mm is not None:
        per_slab = max(1, math.floor(slab_mm / stack.slice_spacing_mm + 0.5))
    ends = [0, *(gap.after_slice for gap in stack.gaps), len(stack.slices)]
    parts = [
        stack.slices[first : min(first + per_slab, end)]
        for start, end in pairwise(ends)
        for first in range(start, end, per_slab)
    ]
    return tuple(Slab(number, part) for number, part in enumerate(parts, start=1))


def display_turn(row_cosines: _Direction, column_cosines: _Direction) -> DisplayTurn:
    """Find how stored pixels are turned so that they are seen as radiologists do.

    Axial: patient's right at the viewer's left, anterior on top. Coronal: right at the left, head on top.
    Sagittal: anterior at the left, head on top. Oblique planes are shown as the nearest of these.
    row_cosines, column_cosines: patient directions of increasing column and row index.
    """
    across, down = np.asarray(row_cosines), np.asarray(column_cosines)
    _, to_right, to_bottom = _DISPLAYS[_nearest_axis(np.cross(across, down))]
    as_stored = abs(across @ to_right) + abs(down @ to_bottom)
    transpose = bool(abs(down @ to_right) + abs(across @ to_bottom) > as_stored)
    if transpose:
        across, down = down, across
    return DisplayTurn(transpose, flip_rows=bool(down @ to_bottom < 0), flip_columns=bool(across @ to_right < 0))


# --- stacks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Placed:
    """A frame and its distance along the normal."""

    frame: Frame
    distance_mm: float


def _groups(frames: Iterable[Frame]) -> list[list[Frame]]:
    groups: list[list[Frame]] = []
    for frame in frames:
        group = next((group for group in groups if _belong_together(group[0], frame)), None)
        if group is None:
            groups.append([frame])
        else:
            group.append(frame)
    return groups


def _belong_together(one: Frame, other: Frame) -> bool:
    if (one.rows, one.columns) != (other.rows, other.columns) or not _same_spacing(one, other):
        return False
    if one.plane is None or other.plane is None:
        return one.plane is other.plane and _view(one) == _view(other)
    return _same_direction(one.plane.row_cosines, other.plane.row_cosines) and _same_direction(
        one.plane.column_cosines, other.plane.column_cosines
    )


def _view(frame: Frame) -> tuple[tuple[str, ...], str]:
    """What tells one projection from another: a frontal and a lateral film are often stored as one series."""
    return frame.patient_orientation, frame.view_position


def _same_spacing(one: Frame, other: Frame) -> bool:
    ours, theirs = one.pixel_spacing_mm, other.pixel_spacing_mm
    if ours is None or theirs is None:
        return ours is theirs
    return ours == theirs or bool(np.allclose(ours, theirs, rtol=_SAME_SPACING))


def _same_direction(one: Vector, other: Vector) -> bool:
    return one == other or float(np.dot(one, other)) > _SAME_DIRECTION


def _stack_of(series: Series, frames: list[Frame]) -> tuple[Stack, list[Unread]]:
    plane = frames[0].plane
    if plane is None:
        return _unplaced_stack(series, frames), []
    normal = _normal(plane)
    axis = _nearest_axis(normal)
    placed, unread = _without_duplicates(series, _placed(frames, normal))
    if axis == 2:
        placed.reverse()
    spacing = _spacing(placed)
    tilt = _tilt_degrees(placed, normal)
    name = _plane_name(normal)
    straightening = _straightening(series, placed, tilt) if name == "axial" else None
    stack = Stack(
        series=series,
        slices=_number(placed),
        plane=name,
        turn=replace(display_turn(plane.row_cosines, plane.column_cosines), straightening=straightening),
        slice_spacing_mm=spacing,
        gaps=_gaps(placed, spacing),
        tilt_degrees=tilt,
    )
    return stack, unread


def _unplaced_stack(series: Series, frames: list[Frame]) -> Stack:
    """Order frames that say nothing of their place by number."""
    ordered = sorted(frames, key=_instance_order)
    is_projection = series.modality in PROJECTION_MODALITIES
    return Stack(
        series=series,
        slices=_number([_Placed(frame, 0.0) for frame in ordered]),
        plane=_projection_plane(frames[0]) if is_projection else _oriented_plane(frames[0].patient_orientation),
        turn=_projection_turn(frames[0].patient_orientation),
        slice_spacing_mm=None,
    )


def _number(placed: Sequence[_Placed]) -> tuple[Slice, ...]:
    return tuple(Slice(number, one.frame, one.distance_mm) for number, one in enumerate(placed, start=1))


def _instance_order(frame: Frame) -> tuple[bool, int, str, int]:
    number = frame.instance_number
    return number is None, number or 0, frame.source.name, frame.index


def _without_duplicates(series: Series, placed: list[_Placed]) -> tuple[list[_Placed], list[Unread]]:
    """Keep one frame of each position: the first by instance number.

    placed: by distance.
    """
    kept: list[_Placed] = []
    unread: list[Unread] = []
    for shared in _positions(placed):
        first, *others = sorted(shared, key=lambda each: _instance_order(each.frame))
        kept.append(first)
        unread.extend(_same_position(series, other.frame, first.frame) for other in others)
    return kept, unread


def _parts(frames: list[Frame]) -> tuple[Part, ...]:
    """Split frames of one orientation where several lie at one position and something tells them apart."""
    if frames[0].plane is None:
        return (Part(tuple(AtPlace(frame, frame) for frame in frames)),)
    shared = _positions(_placed(frames, _normal(frames[0].plane)))
    return split_places([AtPlace(one.frame, number) for number, together in enumerate(shared) for one in together])


def _placed(frames: Iterable[Frame], normal: NDArray[np.float64]) -> list[_Placed]:
    placed = [_Placed(frame, float(np.dot(normal, _position(frame)))) for frame in frames]
    return sorted(placed, key=lambda one: (one.distance_mm, _instance_order(one.frame)))


def _positions(placed: Sequence[_Placed]) -> list[list[_Placed]]:
    """Gather the frames that share a position, in the order of `placed`, which is by distance."""
    within = _same_within_mm(placed)
    positions: list[list[_Placed]] = []
    for one in placed:
        if positions and one.distance_mm - positions[-1][0].distance_mm <= within:
            positions[-1].append(one)
        else:
            positions.append([one])
    return positions


def _same_within_mm(placed: Sequence[_Placed]) -> float:
    """How near two positions are the same one. Steps that are tiny beside a slice are the table's, not the stack's."""
    thickness = min((one.frame.slice_thickness_mm or 0.0 for one in placed), default=0.0)
    jitter = max(DUPLICATE_WITHIN_MM, JITTER_FROM_THICKNESS * thickness)
    steps = [step for step in _steps(placed) if step > jitter]
    return max(DUPLICATE_WITHIN_MM, DUPLICATE_WITHIN_SPACINGS * statistics.median(steps)) if steps else jitter


def _same_position(series: Series, frame: Frame, kept: Frame) -> Unread:
    return Unread(
        source=frame.source,
        reason=f"same position as {kept.source.name}",
        series_uid=series.uid,
        sop_instance_uid=frame.sop_instance_uid,
        frame_index=frame.index,
    )


# --- measures ----------------------------------------------------------------------------------------------------


def _normal(plane: Plane) -> NDArray[np.float64]:
    """Compute the unit normal, pointing to the positive end of the patient axis it is nearest to."""
    normal = np.cross(plane.row_cosines, plane.column_cosines)
    normal /= np.linalg.norm(normal)
    return normal if normal[_nearest_axis(normal)] > 0 else -normal


def _nearest_axis(direction: NDArray[np.float64]) -> int:
    return int(np.argmax(np.abs(direction)))


def _plane_name(normal: NDArray[np.float64]) -> PlaneName:
    axis = _nearest_axis(normal)
    # A hair of tolerance, so that exactly 30° does not depend on rounding.
    near = abs(normal[axis]) >= math.cos(math.radians(OBLIQUE_FROM_DEGREES)) - 1e-6
    return _DISPLAYS[axis][0] if near else "oblique"


def _position(frame: Frame) -> Vector:
    return frame.plane.position_lps_mm if frame.plane else (0.0, 0.0, 0.0)


def _steps(placed: Sequence[_Placed]) -> list[float]:
    return [abs(after.distance_mm - before.distance_mm) for before, after in pairwise(placed)]


def _spacing(placed: Sequence[_Placed]) -> float | None:
    steps = _steps(placed)
    return statistics.median(steps) if steps else None


def _gaps(placed: Sequence[_Placed], spacing: float | None) -> tuple[Gap, ...]:
    if spacing is None:
        return ()
    return tuple(
        Gap(after_slice=number, missing_mm=step - spacing)
        for number, step in enumerate(_steps(placed), start=1)
        if step > GAP_FROM_SPACINGS * spacing
    )


def _tilt_degrees(placed: Sequence[_Placed], normal: NDArray[np.float64]) -> float:
    """Measure the angle between the line through the slices' corners and their normal: 0 but for a tilted gantry."""
    line = np.subtract(_position(placed[-1].frame), _position(placed[0].frame))
    length = float(np.linalg.norm(line))
    if length == 0:
        return 0.0
    along = float(np.dot(normal, line))
    across = float(np.linalg.norm(line - along * normal))
    return math.degrees(math.atan2(across, abs(along)))


def _straightening(series: Series, placed: Sequence[_Placed], tilt_degrees: float) -> Straightening | None:
    """Find the field of view that holds every slice of a tilted CT once its shear is taken out."""
    if series.modality != "CT" or not TILT_FROM_DEGREES < tilt_degrees <= TILT_TO_DEGREES:
        return None
    if placed[0].frame.pixel_spacing_mm is None:
        return None
    origin = _position(placed[0].frame)
    across, down = zip(*(in_plane_shift_mm(one.frame, origin) for one in placed), strict=True)
    return Straightening(origin, (min(across), max(across)), (min(down), max(down)))


def in_plane_shift_mm(frame: Frame, origin_lps_mm: Vector) -> tuple[float, float]:
    """Measure how far a frame's first pixel lies from a point, along its rows and along its columns."""
    if frame.plane is None:
        return 0.0, 0.0
    way = np.subtract(frame.plane.position_lps_mm, origin_lps_mm)
    return float(np.dot(way, frame.plane.row_cosines)), float(np.dot(way, frame.plane.column_cosines))


# --- projections -------------------------------------------------------------------------------------------------


def _projection_turn(patient_orientation: tuple[str, ...]) -> DisplayTurn:
    """Turn a projection by (0020,0020) Patient Orientation; as stored when that says nothing (PS3.3 C.7.6.1.1.1)."""
    directions = _directions(patient_orientation)
    return display_turn(*directions) if directions else DisplayTurn()


def _projection_plane(frame: Frame) -> PlaneName:
    """Tell a view from the front or behind, which has a left and a right side, from every other one."""
    plane = _oriented_plane(frame.patient_orientation)
    frontal = plane == "coronal" or (plane == "unknown" and frame.view_position in _FRONTAL_VIEWS)
    return "projection" if frontal else "other projection"


def _oriented_plane(patient_orientation: tuple[str, ...]) -> PlaneName:
    directions = _directions(patient_orientation)
    return _DISPLAYS[_nearest_axis(np.cross(*directions))][0] if directions else "unknown"


def _directions(patient_orientation: tuple[str, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Read the patient directions of rows and columns; None when the header does not give two different ones."""
    if len(patient_orientation) != 2:
        return None
    across, down = (_letters_direction(letters) for letters in patient_orientation)
    return (across, down) if np.cross(across, down).any() else None


def _letters_direction(letters: str) -> NDArray[np.float64]:
    """Turn letters such as "LF", the first weighing most, into a patient direction; zeros for unknown ones."""
    weighted = (_LETTERS.get(letter, np.zeros(3)) / 2**place for place, letter in enumerate(letters.upper()[:3]))
    return np.sum(list(weighted), axis=0) if letters else np.zeros(3)
