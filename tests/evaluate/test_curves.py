from __future__ import annotations

import pytest

from medvl.evaluate.curves import FrocPoint, ReliabilityBin, best_point, calibrate, froc
from medvl.evaluate.match import match_findings
from tests.evaluate.builders import finding, lesion

# Two lesions, one found at 0.9 and one at 0.4; false findings at 0.6 and 0.4; a second study has a false one at 0.2.
FIRST = match_findings(
    [finding(0, 0.9), finding(100, 0.4), finding(-50, 0.6), finding(-80, 0.4)], [lesion(0), lesion(100)]
)
SECOND = match_findings([finding(0, 0.2)], [])


def test_froc_counts_what_is_left_at_each_threshold() -> None:
    assert froc([FIRST, SECOND]) == (
        FrocPoint(0.9, 0.5, 0.0),
        FrocPoint(0.6, 0.5, 0.5),
        FrocPoint(0.4, 1.0, 1.0),
        FrocPoint(0.2, 1.0, 1.5),
    )


def test_a_small_nodule_found_neither_helps_nor_hurts() -> None:
    matching = match_findings([finding(0, 0.9), finding(100, 0.8)], [lesion(0, diameter_mm=5.0), lesion(100)])
    assert froc([matching]) == (FrocPoint(0.9, 0.0, 0.0), FrocPoint(0.8, 1.0, 0.0))


def test_there_is_no_froc_without_lesions() -> None:
    assert froc([SECOND]) == ()


@pytest.mark.parametrize(("rate", "threshold"), [(0.0, 0.9), (0.5, 0.9), (1.0, 0.4), (9.0, 0.4)])
def test_the_best_point_is_the_strictest_of_the_most_sensitive(rate: float, threshold: float) -> None:
    point = best_point(froc([FIRST, SECOND]), rate)
    assert point is not None
    assert point.threshold == threshold


def test_no_point_is_good_enough_when_the_surest_finding_is_false() -> None:
    assert best_point([FrocPoint(0.9, 0.0, 1.0)], 0.5) is None


def test_calibration_compares_confidence_and_truth_bin_by_bin() -> None:
    calibration = calibrate([FIRST, SECOND])
    assert calibration.bins == (
        ReliabilityBin(0.2, 0.3, 1, 0.2, 0.0),
        ReliabilityBin(0.4, 0.5, 2, 0.4, 0.5),
        ReliabilityBin(0.6, 0.7, 1, 0.6, 0.0),
        ReliabilityBin(0.9, 1.0, 1, 0.9, 1.0),
    )
    # (1 × 0.2 + 2 × 0.1 + 1 × 0.6 + 1 × 0.1) / 5
    assert calibration.expected_error == pytest.approx(0.22)


def test_a_confidence_of_one_lies_in_the_last_bin() -> None:
    assert calibrate([match_findings([finding(0, 1.0)], [lesion(0)])]).bins == (ReliabilityBin(0.9, 1.0, 1, 1.0, 1.0),)


def test_findings_without_confidence_are_not_calibrated() -> None:
    calibration = calibrate([match_findings([finding(0, None)], [lesion(0)])])
    assert (calibration.bins, calibration.expected_error) == ((), None)
