"""Chooses which series of a study to read, and says why in plain words.

A CT acquisition is often reconstructed several times. Of those, the one that suits the prompt is read; another one is
left out only where the chosen one covers it, so that no part of the patient is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medvl.dicom.geometry import PROJECTION_MODALITIES, stack_series
from medvl.dicom.kernels import kernel_kind
from medvl.dicom.scan import require_images
from medvl.errors import SettingsError
from medvl.records import Apart, Frame, Scan, Series, Stack, Study

KernelWish = Literal["sharp", "soft", "any"]
GOOD_THICKNESS_MM = (1.0, 3.0)
# Share of a series' extent inside the chosen one: fields of view differ by design, but no slices may be lost.
COVERED_FROM_LPS = (0.7, 0.7, 0.9)
MOST_PHASES = 6  # without contrast, arterial, portal venous, delayed and two more; what has more is perfusion or cine
MOST_OTHERS = 3  # echoes, inversion times, flip angles: what has more is a map's raw data
_SAME_TIME_S = 5.0  # contrast phases of one patient are at least three times this apart


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether a series is read, and why, as a sentence without full stop."""

    series: Series
    read: bool
    reason: str


def wanted_studies(found: Scan, wanted: tuple[str, ...]) -> tuple[Study, ...]:
    """Return the studies to read: all of them, or those that have a series asked for by its UID.

    Raises InputError when there is nothing to read, SettingsError, naming what there is, if no study has such a series.
    """
    if wanted == ("auto",) or not any(study.series for study in found.studies):
        require_images(found)
    if wanted in (("auto",), ("all",)):
        return found.studies
    _check_known(found.studies, wanted)
    return tuple(study for study in found.studies if any(series.uid in wanted for series in study.series))


def _check_known(studies: Iterable[Study], wanted: tuple[str, ...]) -> None:
    known = {series.uid: series for study in studies for series in study.series}
    unknown = [uid for uid in wanted if uid not in known]
    if unknown:
        listed = "; ".join(f"{uid} ({_title(series)})" for uid, series in known.items()) or "none"
        raise SettingsError(
            f"There is no series {', '.join(unknown)}",
            expected=f"auto, all, or Series Instance UIDs; found here: {listed}",
            todo="Copy a UID from medvl inspect",
        )


def select_series(
    study: Study, wanted: tuple[str, ...], kernel_for: Callable[[Series], KernelWish]
) -> tuple[Choice, ...]:
    """Decide for each series of a study whether it is read.

    wanted: ("auto",), ("all",) or Series Instance UIDs; those of other studies are passed over, see `wanted_studies`.
    kernel_for: the kernel that the prompt of a series would like.
    """
    if wanted == ("auto",):
        return _choose(study.series, kernel_for)
    if wanted == ("all",):
        return tuple(_asked_for(series, "all series were asked for") for series in study.series)
    return tuple(
        _asked_for(series, "asked for by its UID")
        if series.uid in wanted
        else Choice(series, False, "not among the series asked for")
        for series in study.series
    )


def stack_left_out(stack: Stack, wanted: tuple[str, ...]) -> str:
    """Say why a stack of a series that is read is left out; "" when it is read.

    Series asked for are read with all their stacks. Else of the frames at the same positions those are read that a
    radiologist looks at: every contrast phase, the lowest and the highest b-value in one direction, magnitudes, and of
    long rows of times, echoes or heart phases the first, the middle and the last.
    """
    if wanted != ("auto",):
        return ""
    return next((f"{stack.label}: {reason}" for apart in stack.apart if (reason := _left_out(apart))), "")


def _left_out(apart: Apart) -> str:
    n, count = apart.number, apart.count
    if apart.trait == "component":
        return "magnitudes are read" if n > 1 and apart.value in ("PHASE", "IMAGINARY") else ""
    if apart.trait == "b-value":
        return "of the b-values the lowest and the highest are read" if 1 < n < count else ""
    if apart.trait == "direction":
        return "of the directions the first is read" if n > 1 else ""
    if apart.trait in ("station", "image type", "stack", "kernel", "dimension"):
        return ""
    most = MOST_PHASES if apart.trait == "phase" else MOST_OTHERS
    if count <= most or n in (1, (count + 1) // 2, count):
        return ""
    return f"of more than {most} such stacks the first, the middle and the last are read"


def _asked_for(series: Series, reason: str) -> Choice:
    return Choice(series, True, f"{reason}, though {series.not_read_because}" if series.not_read_because else reason)


# --- auto --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A series worth reading and what it is ranked by; smaller is better."""

    series: Series
    stack: Stack  # the largest
    stack_count: int
    off_axial: bool
    derived: bool
    kernel_misfit: int  # 0 as wished, 1 unknown, 2 the other one
    thickness_misfit_mm: float

    @property
    def rank(self) -> tuple[bool, bool, int, float, int, int, str]:
        number = self.series.number
        return (
            self.off_axial,
            self.derived,
            self.kernel_misfit,
            self.thickness_misfit_mm,
            -len(self.series.frames),
            number if number is not None else 0,
            self.series.uid,
        )


def _choose(all_series: tuple[Series, ...], kernel_for: Callable[[Series], KernelWish]) -> tuple[Choice, ...]:
    worth = [_candidate(series, kernel_for(series)) for series in all_series if not series.not_read_because]
    chosen: list[tuple[_Candidate, list[_Candidate]]] = []  # with those it stands for
    for candidate in sorted(worth, key=lambda each: each.rank):
        stands_for = next((others for better, others in chosen if _covers(better, candidate)), None)
        if stands_for is None:
            chosen.append((candidate, []))
        else:
            stands_for.append(candidate)
    choices = {series.uid: Choice(series, False, series.not_read_because) for series in all_series}
    for best, others in chosen:
        choices[best.series.uid] = Choice(best.series, True, _why(best, others))
        choices.update((each.series.uid, Choice(each.series, False, _why_not(each, best))) for each in others)
    return tuple(choices.values())


def _candidate(series: Series, wish: KernelWish) -> _Candidate:
    stacks = stack_series(series)[0]
    stack = max(stacks, key=lambda each: len(each.slices))
    return _Candidate(
        series=series,
        stack=stack,
        stack_count=len(stacks),
        off_axial=stack.plane not in ("axial", "unknown"),
        derived=series.image_type[:1] == ("DERIVED",),
        kernel_misfit=_kernel_misfit(series, wish),
        thickness_misfit_mm=_thickness_misfit_mm(stack),
    )


def _kernel_misfit(series: Series, wish: KernelWish) -> int:
    if series.modality != "CT" or wish == "any":
        return 0
    return {wish: 0, "unknown": 1}.get(kernel_kind(series.kernel, series.description), 2)


def _thickness_misfit_mm(stack: Stack) -> float:
    thickness = stack.slices[0].frame.slice_thickness_mm or stack.slice_spacing_mm
    if thickness is None:
        return 0.0
    thinnest, thickest = GOOD_THICKNESS_MM
    return max(thinnest - thickness, thickness - thickest, 0.0)


def _covers(one: _Candidate, other: _Candidate) -> bool:
    """Say whether `one` shows the same acquisition as `other`, and at least nearly all of its extent."""
    if not _same_acquisition(one.series, other.series):
        return False
    if one.stack.gaps and not other.stack.gaps:
        return False
    if one.stack_count < other.stack_count:  # phases that only the other one has
        return False
    ours, theirs = _extent(one.stack), _extent(other.stack)
    if ours is None or theirs is None:
        return False
    shared = np.minimum(ours[1], theirs[1]) - np.maximum(ours[0], theirs[0])
    return bool(np.all(shared >= np.multiply(COVERED_FROM_LPS, theirs[1] - theirs[0])))


def _same_acquisition(one: Series, other: Series) -> bool:
    """Say whether two CT series were made from one scan: same frame of reference, acquisition and time."""
    if one.modality != "CT" or other.modality != "CT":
        return False  # MR sequences over one place are different pictures
    ours, theirs = one.frames[0], other.frames[0]
    if not ours.frame_of_reference_uid or ours.frame_of_reference_uid != theirs.frame_of_reference_uid:
        return False
    numbers, other_numbers = ({frame.acquisition for frame in series.frames} - {""} for series in (one, other))
    if numbers and other_numbers and not numbers & other_numbers:
        return False
    return _same_time(one.frames, other.frames)


def _same_time(ours: Iterable[Frame], theirs: Iterable[Frame]) -> bool:
    our_times = [frame.acquired_at_s for frame in ours if frame.acquired_at_s is not None]
    their_times = [frame.acquired_at_s for frame in theirs if frame.acquired_at_s is not None]
    if not our_times or not their_times:
        return True
    apart = max(min(our_times) - max(their_times), min(their_times) - max(our_times))
    return apart <= _SAME_TIME_S


def _extent(stack: Stack) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Compute the box around the slices' pixel centres, in patient millimetres."""
    corners = [corner for one in (stack.slices[0], stack.slices[-1]) for corner in _corners(one.frame)]
    return (np.min(corners, axis=0), np.max(corners, axis=0)) if corners else None


def _corners(frame: Frame) -> list[NDArray[np.float64]]:
    if frame.plane is None or frame.pixel_spacing_mm is None:
        return []
    between_rows, between_columns = frame.pixel_spacing_mm
    start = np.asarray(frame.plane.position_lps_mm)
    across = np.asarray(frame.plane.row_cosines) * between_columns * (frame.columns - 1)
    down = np.asarray(frame.plane.column_cosines) * between_rows * (frame.rows - 1)
    return [start, start + across, start + down, start + across + down]


# --- words -------------------------------------------------------------------------------------------------------


def _why(chosen: _Candidate, others: list[_Candidate]) -> str:
    plane, modality = chosen.stack.plane, chosen.series.modality
    kind = modality if plane == "unknown" else f"{plane} {modality}"
    kind = "X-ray" if modality in PROJECTION_MODALITIES else kind
    if not others:
        return f"{kind} series"
    listed = ", ".join(_title(each.series) for each in others)
    return f"{kind} series; of one acquisition, preferred to {listed}, since it {_advantage(chosen, others[0])}"


def _why_not(left_out: _Candidate, chosen: _Candidate) -> str:
    return f"same acquisition as {_title(chosen.series)}, which {_advantage(chosen, left_out)}"


def _advantage(chosen: _Candidate, other: _Candidate) -> str:
    """Say in which way one series suits better: the first point of the ranking in which they differ."""
    if chosen.off_axial != other.off_axial:
        return f"is axial, not {other.stack.plane}"
    if chosen.derived != other.derived:
        return "is original, not derived"
    if chosen.kernel_misfit != other.kernel_misfit:
        return f"has the kernel that suits the prompt ({_kernel(chosen.series)}, not {_kernel(other.series)})"
    if chosen.thickness_misfit_mm != other.thickness_misfit_mm:
        thinnest, thickest = GOOD_THICKNESS_MM
        return f"has a slice thickness nearer to {thinnest:g}–{thickest:g} mm"
    if len(chosen.series.frames) != len(other.series.frames):
        return "has more slices"
    return "comes first"


def _kernel(series: Series) -> str:
    kind = kernel_kind(series.kernel, series.description)
    return f"{series.kernel}: {kind}" if series.kernel else kind


def _title(series: Series) -> str:
    number = "series without number" if series.number is None else f"series {series.number}"
    return f'{number} "{series.description}"' if series.description else number
