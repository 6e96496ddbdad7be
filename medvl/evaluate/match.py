"""Which finding is which lesion: by place, in millimetres of patient space, never by the words.

Pure: knows neither files nor models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medvl.evaluate.write import TrueLesion
from medvl.records import Finding

NEAR_MM = 5.0  # a centre this near counts however small the nodule is
TARGET_MM = 6.0  # from this size on a nodule must not be missed
EFFUSION = "pleural effusion"


@dataclass(frozen=True, slots=True)
class Match:
    """A lesion and the finding that reports it."""

    finding: Finding
    lesion: TrueLesion
    distance_mm: float  # between the centres, in space


@dataclass(frozen=True, slots=True)
class Matching:
    """What became of one study's lesions and findings; each of either is listed once."""

    matches: tuple[Match, ...]
    missed: tuple[TrueLesion, ...]
    false: tuple[Finding, ...]  # no lesion is there, or a surer finding has it already
    duplicate_count: int  # how many of the false ones lie on a lesion


def match_findings(findings: Sequence[Finding], lesions: Sequence[TrueLesion]) -> Matching:
    """Give each finding the nearest lesion still free, the surest finding first.

    What a study looks like above a threshold of confidence is therefore the beginning of the same matching.
    """
    free = dict(enumerate(lesions))
    matches: list[Match] = []
    false: list[Finding] = []
    for finding in sorted(findings, key=_surest_first):
        hits = [(distance, i) for i, lesion in free.items() if (distance := hit_mm(finding, lesion)) is not None]
        if hits:
            distance, nearest = min(hits)
            matches.append(Match(finding, free.pop(nearest), distance))
        else:
            false.append(finding)
    duplicates = sum(any(hit_mm(finding, lesion) is not None for lesion in lesions) for finding in false)
    return Matching(tuple(matches), tuple(free.values()), tuple(false), duplicates)


def hit_mm(finding: Finding, lesion: TrueLesion) -> float | None:
    """Return how far the centres lie apart if the finding is on the lesion, else None.

    A nodule is hit by a centre within the larger of its radius and 5 mm. An effusion is a crescent whose own middle
    says little: it is hit by a box on one of its slices that holds its centre of mass in the axial plane.
    """
    if finding.center_lps_mm is None:
        return None
    distance = math.dist(finding.center_lps_mm, lesion.center_lps_mm)
    if lesion.kind == EFFUSION:
        return distance if _covers(finding, lesion) else None
    return distance if distance <= max(lesion.diameter_mm / 2, NEAR_MM) else None


def is_target(lesion: TrueLesion) -> bool:
    """Tell whether a lesion counts for the headline: an effusion, or a nodule of 6 mm and more."""
    return lesion.kind == EFFUSION or lesion.diameter_mm >= TARGET_MM


def confidence_of(finding: Finding) -> float:
    """Return a finding's confidence; 1 where the reader tells none, so that no threshold removes it."""
    return 1.0 if finding.confidence is None else finding.confidence


def _surest_first(finding: Finding) -> tuple[float, int]:
    return -confidence_of(finding), finding.number


def _covers(finding: Finding, lesion: TrueLesion) -> bool:
    center, width, height = finding.center_lps_mm, finding.width_mm, finding.height_mm
    if center is None or width is None or height is None:
        return False
    beside, behind = (abs(a - b) for a, b in zip(center[:2], lesion.center_lps_mm[:2], strict=True))
    on_a_slice = finding.sop_instance_uid in lesion.sop_instance_uids
    return on_a_slice and beside <= width / 2 and behind <= height / 2
