"""What a set of studies with known truth says of an installation: how much it finds, invents and misplaces.

Pure: findings and truth in, figures out. Only a report's own words enter, never the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

import numpy as np

from medvl.evaluate.curves import Calibration, FrocPoint, calibrate, froc
from medvl.evaluate.match import EFFUSION, Match, Matching, hit_mm, is_target, match_findings
from medvl.evaluate.phantoms import LesionKind
from medvl.evaluate.write import TrueLesion, Truth
from medvl.findings.second_look import is_contradicted
from medvl.findings.wording import are_compatible
from medvl.records import Finding
from medvl.report.document import ReportDocument

_Item = TypeVar("_Item")
_Z95 = 1.959964  # of the normal distribution
_SIZES_MM = ((0, 6, "below 6 mm"), (6, 10, "6 to 10 mm"), (10, 20, "10 to 20 mm"), (20, math.inf, "20 mm and more"))


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share with its 95 % interval; None of nothing."""

    hits: int
    total: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Spread:
    """Values in one line; None without any."""

    count: int
    median: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class CaseReading:
    """One study's truth and what was reported of it. Findings that its second look contradicts stand apart."""

    truth: Truth
    findings: tuple[Finding, ...]
    complete: bool  # every slice was read
    reply_count: int
    mended_count: int  # replies that were cut, repaired or dropped
    seconds: float | None  # of the model; None if there is no report
    contradicted: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """How many lesions of one kind or size were found."""

    name: str
    found: Proportion


@dataclass(frozen=True, slots=True)
class Score:
    """The figures over a set of studies. Sizes, millimetres: see docs/evaluate.md."""

    study_count: int
    complete: Proportion
    sensitivity: Proportion  # of effusions, and of nodules of 6 mm and more
    by_size: tuple[Group, ...]  # nodules
    by_kind: tuple[Group, ...]
    finding_count: int
    false_count: int
    duplicates: Proportion  # of all findings: false ones that lie on a lesion
    false_per_study: float | None
    normal_called_normal: Proportion  # read to the end without any finding
    side_right: Proportion  # of the matches; medvl's side, from geometry
    side_said_right: Proportion  # the same, as the model said
    named_right: Proportion  # of the matches; the observation can mean this kind of lesion
    center_error_mm: Spread  # nodules
    diameter_error_mm: Spread  # nodules; size of the error
    diameter_bias_mm: float | None  # mean error: above 0, measured too large
    diameter_as_stated: Proportion  # nodules; the error is within what the report states
    contradicted: Proportion  # findings left out since the second look contradicts them: how many were no lesion
    froc: tuple[FrocPoint, ...]
    calibration: Calibration
    replies_mended: Proportion
    reading_seconds: Spread  # per study


def case_reading(truth: Truth, document: ReportDocument | None) -> CaseReading:
    """Take from a report what is scored; None: the study could not be read, and all its lesions are missed."""
    if document is None:
        return CaseReading(truth, (), False, 0, 0, None)
    views = [view for series in document.series for view in series.views]
    contradicted = tuple(finding for finding in document.findings if is_contradicted(finding))
    return CaseReading(
        truth=truth,
        findings=tuple(finding for finding in document.findings if finding not in contradicted),
        complete=document.status == "complete",
        reply_count=sum(view.chunk_count for view in views),
        # A problem begins with its chunk's number; one reply may have several.
        mended_count=sum(len({problem.partition(":")[0] for problem in view.problems}) for view in views),
        seconds=document.timing.reading_seconds,
        contradicted=contradicted,
    )


def score_cases(cases: Sequence[CaseReading]) -> Score:
    """Match every study's findings with its truth and count."""
    matchings = [match_findings(case.findings, case.truth.lesions) for case in cases]
    matches = [match for each in matchings for match in each.matches]
    nodules = [match for match in matches if match.lesion.kind != EFFUSION]
    stated = [match for match in nodules if match.finding.axis_error_mm is not None]
    errors = [error for match in nodules if (error := _diameter_error_mm(match)) is not None]
    false_count = sum(len(each.false) for each in matchings)
    normal = [case for case in cases if not case.truth.lesions]
    return Score(
        study_count=len(cases),
        complete=_share(cases, lambda case: case.complete),
        sensitivity=_found(matchings, is_target),
        by_size=tuple(_size_group(matchings, *size) for size in _SIZES_MM),
        by_kind=tuple(_kind_group(matchings, kind) for kind in get_args(LesionKind)),
        finding_count=len(matches) + false_count,
        false_count=false_count,
        duplicates=proportion(sum(each.duplicate_count for each in matchings), len(matches) + false_count),
        false_per_study=false_count / len(cases) if cases else None,
        normal_called_normal=_share(normal, lambda case: case.complete and not case.findings),
        side_right=_share(matches, lambda match: match.finding.side == match.lesion.side),
        side_said_right=_share(matches, lambda match: match.finding.side_said == match.lesion.side),
        named_right=_share(matches, lambda match: are_compatible(match.finding.observation, match.lesion.kind)),
        center_error_mm=spread(match.distance_mm for match in nodules),
        diameter_error_mm=spread(abs(error) for error in errors),
        diameter_bias_mm=float(np.mean(errors)) if errors else None,
        diameter_as_stated=_share(stated, _is_as_stated),
        contradicted=_share([pair for case in cases for pair in _left_out(case)], _is_false),
        froc=froc(matchings),
        calibration=calibrate(matchings),
        replies_mended=proportion(sum(case.mended_count for case in cases), sum(case.reply_count for case in cases)),
        reading_seconds=spread(case.seconds for case in cases if case.seconds is not None),
    )


def proportion(hits: int, total: int) -> Proportion:
    """Return a share with its 95 % interval.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if total == 0:
        return Proportion(hits, total, None, None, None)
    share, z2 = hits / total, _Z95**2
    center = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return Proportion(hits, total, share, max(center - half, 0.0), min(center + half, 1.0))


def spread(values: Iterable[float]) -> Spread:
    """Return count, median and 95th percentile, interpolated between values."""
    known = list(values)
    if not known:
        return Spread(0, None, None)
    return Spread(len(known), float(np.median(known)), float(np.percentile(known, 95)))


def _share(items: Sequence[_Item], good: Callable[[_Item], bool]) -> Proportion:
    return proportion(sum(map(good, items)), len(items))


def _found(matchings: Sequence[Matching], counts: Callable[[TrueLesion], bool]) -> Proportion:
    hits = sum(counts(match.lesion) for each in matchings for match in each.matches)
    missed = sum(counts(lesion) for each in matchings for lesion in each.missed)
    return proportion(hits, hits + missed)


def _size_group(matchings: Sequence[Matching], least_mm: float, below_mm: float, name: str) -> Group:
    def counts(lesion: TrueLesion) -> bool:
        return lesion.kind != EFFUSION and least_mm <= lesion.diameter_mm < below_mm

    return Group(name, _found(matchings, counts))


def _kind_group(matchings: Sequence[Matching], kind: LesionKind) -> Group:
    return Group(kind, _found(matchings, lambda lesion: lesion.kind == kind))


def _is_as_stated(match: Match) -> bool:
    error, stated = _diameter_error_mm(match), match.finding.axis_error_mm
    return error is not None and stated is not None and abs(error) <= stated


def _left_out(case: CaseReading) -> list[tuple[Finding, CaseReading]]:
    return [(finding, case) for finding in case.contradicted]


def _is_false(left_out: tuple[Finding, CaseReading]) -> bool:
    """Tell whether a finding lies on none of its study's lesions."""
    finding, case = left_out
    return all(hit_mm(finding, lesion) is None for lesion in case.truth.lesions)


def _diameter_error_mm(match: Match) -> float | None:
    width, height = match.finding.width_mm, match.finding.height_mm
    return None if width is None or height is None else (width + height) / 2 - match.lesion.diameter_mm
