"""What the confidence is worth: sensitivity against false findings (FROC), and how often a sure finding is true.

Pure arithmetic on matchings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from medvl.evaluate.match import Matching, confidence_of, is_target

_BINS = 10


@dataclass(frozen=True, slots=True)
class FrocPoint:
    """What would be reported if findings below `threshold` were left out."""

    threshold: float
    sensitivity: float  # of target lesions
    false_per_study: float


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The findings whose confidence lies from `low` up to `high`, and how many of them were true."""

    low: float
    high: float
    count: int
    mean_confidence: float
    true_share: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far confidence and truth lie apart. expected_error: weighted by bin; None without any confidence."""

    bins: tuple[ReliabilityBin, ...]  # those that hold findings
    expected_error: float | None


def froc(matchings: Sequence[Matching]) -> tuple[FrocPoint, ...]:
    """Return one point for each confidence found, the strictest threshold first.

    Nodules below 6 mm are neither asked for nor held against a model that finds them. Empty without target lesions.
    Source: free-response ROC after Bunch et al., Proc. SPIE 127 (1977).
    """
    targets = sum(_target_count(each) for each in matchings)
    events = sorted((event for each in matchings for event in _events(each)), reverse=True)
    points, found, false = [], 0, 0
    for threshold, group in groupby(events, key=lambda event: event[0]):
        for _, is_found, is_false in group:
            found += is_found
            false += is_false
        if targets:
            points.append(FrocPoint(threshold, found / targets, false / len(matchings)))
    return tuple(points)


def best_point(points: Sequence[FrocPoint], most_false_per_study: float) -> FrocPoint | None:
    """Return the most sensitive point with no more than so many false findings per study; of equals the strictest."""
    allowed = [point for point in points if point.false_per_study <= most_false_per_study]
    return max(allowed, key=lambda point: (point.sensitivity, point.threshold), default=None)


def calibrate(matchings: Sequence[Matching]) -> Calibration:
    """Compare the confidence of findings with the share of them that are true, in ten bins of equal width.

    Findings without a confidence are left out.
    Source: expected calibration error after Naeini et al., AAAI 2015.
    """
    known = [(match.finding.confidence, True) for each in matchings for match in each.matches]
    known += [(finding.confidence, False) for each in matchings for finding in each.false]
    pairs = [(confidence, is_true) for confidence, is_true in known if confidence is not None]
    bins = []
    for i in range(_BINS):
        inside = [pair for pair in pairs if min(int(pair[0] * _BINS), _BINS - 1) == i]
        if inside:
            mean = sum(confidence for confidence, _ in inside) / len(inside)
            share = sum(is_true for _, is_true in inside) / len(inside)
            bins.append(ReliabilityBin(i / _BINS, (i + 1) / _BINS, len(inside), mean, share))
    gap = sum(each.count * abs(each.mean_confidence - each.true_share) for each in bins)
    return Calibration(tuple(bins), gap / len(pairs) if pairs else None)


def _target_count(matching: Matching) -> int:
    lesions = (*(match.lesion for match in matching.matches), *matching.missed)
    return sum(is_target(lesion) for lesion in lesions)


def _events(matching: Matching) -> list[tuple[float, bool, bool]]:
    """Return the confidence of each finding, and whether it is a target found or a false one."""
    found = [(confidence_of(match.finding), is_target(match.lesion), False) for match in matching.matches]
    return found + [(confidence_of(finding), False, True) for finding in matching.false]
