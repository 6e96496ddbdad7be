"""The gate: judges a stack from headers and geometry alone, before any pixel is decoded or any model loaded.

Pure functions on records. A note is a code and its numbers; what it means, and what medvl does about it, is worded in
`report/words`. What the codes promise is kept elsewhere: `geometry` splits and straightens, `grey` resamples, `views`
takes another window where values are not HU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np

from medvl.dicom.geometry import DUPLICATE_WITHIN_MM, GAP_FROM_SPACINGS, PROJECTION_MODALITIES, TILT_FROM_DEGREES
from medvl.dicom.regions import contradiction
from medvl.records import Frame, Note, Plane, Series, Stack, Unread

Verdict = Literal["ready", "ready with notes", "not readable"]

FEWEST_CT_SLICES = 3
UNEVEN_FROM_SPACINGS = 0.1
OVERLAP_FROM_SPACINGS = 1.05  # thickness against spacing; headers round both
APART_FROM_THICKNESSES = 1.5  # spacing against thickness; MR leaves 10 to 30 % between slices by habit
SQUARE_WITHIN = 1e-3
_WITHOUT_PLACE = PROJECTION_MODALITIES | {"US"}
_COMPUTED = frozenset({"CT", "MR", "PT"})  # where DERIVED means more than the detector's own processing of a film

_ZERO_SPACING = "zero_pixel_spacing"  # a flaw of the header, like those of values

# How `kinds` opens its reasons, and the code of each; any other reason is "other_kind".
_KINDS = {
    "scout": "localizer",
    "dose": "dose_page",
    "derived": "reformat_or_projection",
    "secondary capture": "secondary_capture",
    "colour": "colour",
    "mosaic": "mosaic",
    "PET without": "uncorrected_pet",
    "cine": "cine",
    "modality": "other_modality",
}
_DETAIL = re.compile(r"\(([^()]+)\)|(?<=^modality )[^ ,]+|(?<=^cine run of )\d+")  # which reformat, modality, how many
NOT_READABLE = frozenset({*_KINDS.values(), "other_kind"})


def note_stacks(
    series: Series, stacks: Sequence[Stack], left_out: Sequence[Unread], lost: Iterable[Unread] = ()
) -> tuple[Stack, ...]:
    """Return the stacks of a series with the notes of each.

    left_out: frames at positions already taken, see `stack_series`. lost: what the scan found damaged in the study.
    A series that is not worth reading gets one note that says what it is.
    """
    if series.not_read_because:
        return tuple(replace(stack, notes=(_kind_note(series),)) for stack in stacks)
    shared = (*_split_notes(stacks), *_series_notes(series, lost))
    taken = _by_stack(series, stacks, left_out)
    return tuple(
        replace(stack, notes=(*_stack_notes(stack), *_taken_notes(stack, frames), *shared))
        for stack, frames in zip(stacks, taken, strict=True)
    )


def verdict(stack: Stack) -> Verdict:
    """Judge a stack by its notes."""
    if any(note.code in NOT_READABLE for note in stack.notes):
        return "not readable"
    return "ready with notes" if stack.notes else "ready"


def _note(code: str, **values: float | str) -> Note:
    """Make a note; numbers are rounded to what headers mean."""
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}
    return Note(code, tuple(rounded.items()))


# --- the series --------------------------------------------------------------------------------------------------


def _kind_note(series: Series) -> Note:
    reason = series.not_read_because
    code = next((code for start, code in _KINDS.items() if reason.startswith(start)), None)
    if code is None:
        return _note("other_kind", detail=reason)
    detail = _DETAIL.search(reason)
    return _note(code, detail=detail[1] or detail[0] if detail else "")


def _split_notes(stacks: Sequence[Stack]) -> Iterator[Note]:
    """Say in what the stacks of a series differ; what else tells them apart, such as an echo, is not unusual."""
    firsts = [stack.slices[0].frame for stack in stacks]
    measures: dict[str, Callable[[Frame], object]] = {
        "mixed_orientation": _orientation,
        "mixed_matrix": lambda frame: (frame.rows, frame.columns),
        "mixed_spacing": lambda frame: frame.pixel_spacing_mm and tuple(round(mm, 3) for mm in frame.pixel_spacing_mm),
    }
    for code, measure in measures.items():
        if len({measure(frame) for frame in firsts}) > 1:
            yield _note(code, n=len(stacks))


def _orientation(frame: Frame) -> object:
    if frame.plane is None:
        return frame.patient_orientation, frame.view_position
    return tuple(round(value, 1) + 0.0 for value in (*frame.plane.row_cosines, *frame.plane.column_cosines))


def _series_notes(series: Series, lost: Iterable[Unread]) -> Iterator[Note]:
    if truncated := sum(each.frame_count for each in lost if each.lost and each.series_uid == series.uid):
        yield _note("truncated", n=truncated)
    if series.burned_in_annotation:
        yield _note("burned_in_annotation")
    if found := contradiction(series.body_part, series.description):
        yield _note("body_part", tag=found[0], word=found[1])


# --- one stack ---------------------------------------------------------------------------------------------------


def _stack_notes(stack: Stack) -> Iterator[Note]:
    yield from _place_notes(stack)
    yield from _spacing_notes(stack)
    yield from _pixel_notes(stack)
    yield from _value_notes(stack)


def _place_notes(stack: Stack) -> Iterator[Note]:
    first, modality, count = stack.slices[0].frame, stack.series.modality, len(stack.slices)
    if first.plane is None and modality not in _WITHOUT_PLACE:
        yield _note("no_position")
    if modality in _COMPUTED and first.traits.image_type[:1] == ("DERIVED",):
        yield _note("derived")
    if modality == "CT" and stack.plane in ("coronal", "sagittal"):
        yield _note("reformat", plane=stack.plane)
    if modality == "CT" and count < FEWEST_CT_SLICES:
        yield _note("few_slices", n=count)
    if stack.tilt_degrees > TILT_FROM_DEGREES:
        yield _note("tilt" if stack.turn.straightening else "shear", degrees=round(stack.tilt_degrees, 1))


def _spacing_notes(stack: Stack) -> Iterator[Note]:
    for gap in stack.gaps:
        yield _note("gap", slice=gap.after_slice, mm=gap.missing_mm)
    spacing, thickness = stack.slice_spacing_mm, stack.slices[0].frame.slice_thickness_mm
    if not spacing:
        return
    steps = [abs(after.distance_mm - before.distance_mm) for before, after in pairwise(stack.slices)]
    even = [step for step in steps if step <= GAP_FROM_SPACINGS * spacing]
    if max(abs(step - spacing) for step in even) > UNEVEN_FROM_SPACINGS * spacing:
        yield _note("uneven_spacing", least_mm=min(even), most_mm=max(even))
    along_mm = spacing / math.cos(math.radians(stack.tilt_degrees))  # what the table moved: thickness is set by that
    if thickness and thickness > OVERLAP_FROM_SPACINGS * along_mm:
        yield _note("overlap", thickness_mm=thickness, spacing_mm=along_mm)
    if thickness and along_mm > APART_FROM_THICKNESSES * thickness:
        yield _note("apart", thickness_mm=thickness, spacing_mm=along_mm)


def _pixel_notes(stack: Stack) -> Iterator[Note]:
    first = stack.slices[0].frame
    if first.pixel_spacing_mm is None:
        if _ZERO_SPACING in first.flaws:
            yield _note(_ZERO_SPACING)
        else:
            yield _note("uncalibrated" if stack.series.modality in PROJECTION_MODALITIES else "no_pixel_spacing")
    else:
        between_rows, between_columns = first.pixel_spacing_mm
        if abs(between_rows - between_columns) > SQUARE_WITHIN * between_columns:
            yield _note("non_square_pixels", rows_mm=between_rows, columns_mm=between_columns)


def _value_notes(stack: Stack) -> Iterator[Note]:
    """Look for rescales that make values look like HU, or like SUV's raw counts, when they are not (PS3.3 C.11.1)."""
    frames = [each.frame for each in stack.slices]
    flaws = {flaw for frame in frames for flaw in frame.flaws} - {_ZERO_SPACING}
    modality = stack.series.modality
    for code in sorted(flaws):
        yield _note(code)
    unknown = frames[0].rescale_unit != "HU" if modality == "CT" else modality == "PT" and not frames[0].rescale_unit
    if unknown and not flaws:
        yield _note("unknown_unit", unit=frames[0].rescale_unit)
    rescales = {(frame.rescale_slope, frame.rescale_intercept) for frame in frames}
    if modality == "CT" and len(rescales) > 1:
        yield _note("rescale_varies", n=len(rescales))


# --- frames at positions already taken ---------------------------------------------------------------------------


def _by_stack(series: Series, stacks: Sequence[Stack], left_out: Sequence[Unread]) -> list[list[Frame]]:
    """Give each frame that was left out to the stack that holds its neighbours."""
    taken: list[list[Frame]] = [[] for _ in stacks]
    if left_out:
        keys = {(each.source, each.frame_index) for each in left_out}
        places = [_places(each.frame for each in stack.slices) for stack in stacks]
        for frame in (frame for frame in series.frames if (frame.source, frame.index) in keys):
            apart = [_nearest_mm(place, frame) for place in places]
            taken[int(np.argmin(apart))].append(frame)
    return taken


def _taken_notes(stack: Stack, taken: Sequence[Frame]) -> Iterator[Note]:
    if not taken or stack.slices[0].frame.plane is None:
        return
    normal = _normal(stack.slices[0].frame.plane)
    levels = _places(each.frame for each in stack.slices) @ normal
    apart = [float(np.min(np.abs(levels - _places([frame])[0] @ normal))) for frame in taken]
    near = [mm for mm in apart if mm > DUPLICATE_WITHIN_MM]
    if len(near) < len(apart):
        yield _note("duplicate_position", n=len(apart) - len(near))
    if near:
        yield _note("near_duplicate_position", n=len(near), mm=max(near))


def _places(frames: Iterable[Frame]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    places = [frame.plane.position_lps_mm if frame.plane else (math.inf,) * 3 for frame in frames]
    return np.array(places, np.float64).reshape(-1, 3)


def _nearest_mm(places: np.ndarray[tuple[int, int], np.dtype[np.float64]], frame: Frame) -> float:
    if frame.plane is None:
        return math.inf
    return float(np.min(np.linalg.norm(places - frame.plane.position_lps_mm, axis=1)))


def _normal(plane: Plane) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(np.cross(plane.row_cosines, plane.column_cosines), np.float64)
