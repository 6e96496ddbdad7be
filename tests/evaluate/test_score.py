from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from medvl.evaluate.score import CaseReading, Score, Spread, case_reading, proportion, score_cases, spread
from medvl.evaluate.write import TrueLesion
from medvl.records import Finding, SecondLook
from tests.evaluate.builders import finding, lesion, truth
from tests.report.examples import a_report


def case(lesions: list[TrueLesion], findings: list[Finding], **changed: Any) -> CaseReading:
    values: dict[str, Any] = {"complete": True, "reply_count": 10, "mended_count": 0, "seconds": 2.0}
    return CaseReading(truth(*lesions), tuple(findings), **(values | changed))


def shares(score: Score) -> dict[str, tuple[int, int]]:
    return {group.name: (group.found.hits, group.found.total) for group in (*score.by_size, *score.by_kind)}


def test_sensitivity_is_told_by_size_and_kind() -> None:
    lesions = [
        lesion(0, diameter_mm=5.9),
        lesion(100, diameter_mm=6.0),
        lesion(200, diameter_mm=10.0, kind="calcified nodule"),
        lesion(300, diameter_mm=20.0, kind="ground-glass nodule"),
        lesion(400, diameter_mm=15.0, kind="pleural effusion"),
    ]
    score = score_cases([case(lesions, [finding(100), finding(300), finding(400)])])
    assert shares(score) == {
        "below 6 mm": (0, 1),
        "6 to 10 mm": (1, 1),
        "10 to 20 mm": (0, 1),
        "20 mm and more": (1, 1),
        "solid nodule": (1, 2),
        "ground-glass nodule": (1, 1),
        "calcified nodule": (0, 1),
        "pleural effusion": (1, 1),
    }
    assert (score.sensitivity.hits, score.sensitivity.total) == (3, 4)  # all but the one below 6 mm


def test_false_findings_are_counted_per_study() -> None:
    score = score_cases(
        [case([lesion()], [finding(0), finding(2), finding(70)]), case([], []), case([], []), case([], [])]
    )
    assert (score.finding_count, score.false_count, score.false_per_study) == (3, 2, 0.5)
    assert (score.duplicates.hits, score.duplicates.total) == (1, 3)


def test_a_normal_study_must_be_read_in_full_to_count_as_called_normal() -> None:
    score = score_cases([case([], []), case([], [finding()]), case([], [], complete=False), case([lesion()], [])])
    assert (score.normal_called_normal.hits, score.normal_called_normal.total) == (1, 3)
    assert (score.complete.hits, score.complete.total) == (3, 4)


def test_sides_and_names_are_checked_on_matches_only() -> None:
    findings = [
        finding(50, side_said="right"),  # lies on the left
        finding(-50, side="midline", observation="pleural effusion"),
        finding(200, side="right"),  # false: no side to be right about
    ]
    score = score_cases([case([lesion(50), lesion(-50)], findings)])
    assert (score.side_right.hits, score.side_right.total) == (1, 2)
    assert (score.side_said_right.hits, score.side_said_right.total) == (1, 2)
    assert (score.named_right.hits, score.named_right.total) == (1, 2)


def test_errors_are_those_of_nodules() -> None:
    lesions = [lesion(0, diameter_mm=10.0), lesion(100, diameter_mm=14.0), lesion(200, kind="pleural effusion")]
    findings = [finding(3.0), finding(101.0, width_mm=10.0, height_mm=14.0), finding(204.0)]
    score = score_cases([case(lesions, findings)])
    # centres 3 and 1 mm off; diameters 12 for 10 and 12 for 14
    assert (score.center_error_mm.count, score.center_error_mm.median) == (2, 2.0)
    assert (score.diameter_error_mm.median, score.diameter_bias_mm) == (2.0, 0.0)


def test_a_study_without_a_report_misses_all_and_is_not_normal() -> None:
    score = score_cases([case_reading(truth(lesion()), None), case_reading(truth(), None)])
    assert (score.sensitivity.hits, score.sensitivity.total) == (0, 1)
    assert score.normal_called_normal.hits == 0
    assert score.reading_seconds == Spread(0, None, None)


def test_several_problems_of_one_reply_are_one_repair() -> None:
    document = a_report()
    first, *others = document.series
    view = replace(first.views[0], chunk_count=4, problems=("chunk 2: cut", "chunk 2: mended", "chunk 4: cut"))
    series = (replace(first, views=(view,)), *(replace(each, views=()) for each in others))
    read = case_reading(truth(), replace(document, series=series))
    assert (read.mended_count, read.reply_count) == (2, 4)


def test_the_diameter_is_held_against_the_error_that_the_report_states() -> None:
    lesions = [lesion(0, diameter_mm=10.0), lesion(100, diameter_mm=10.0), lesion(200, diameter_mm=10.0)]
    findings = [finding(0, axis_error_mm=2.0), finding(100, axis_error_mm=1.9), finding(200)]  # all 12 mm
    score = score_cases([case(lesions, findings)])
    assert (score.diameter_as_stated.hits, score.diameter_as_stated.total) == (1, 2)


def test_contradicted_findings_do_not_count_and_are_held_against_the_truth() -> None:
    against, unsure = SecondLook("contradicted", 0.02), SecondLook("unconfirmed", 0.5)
    findings = (
        finding(0, second_look=against),  # a lesion is there
        finding(60, second_look=against),
        finding(100, second_look=unsure),
    )
    document = replace(a_report(), findings=findings)
    score = score_cases([case_reading(truth(lesion(0), lesion(100)), document)])
    assert (score.sensitivity.hits, score.sensitivity.total) == (1, 2)
    assert (score.finding_count, score.false_count) == (1, 0)
    assert (score.contradicted.hits, score.contradicted.total) == (1, 2)


def test_a_normal_study_whose_findings_are_all_contradicted_is_called_normal() -> None:
    document = replace(a_report(), status="complete", findings=(finding(second_look=SecondLook("contradicted", 0.0)),))
    score = score_cases([case_reading(truth(), document)])
    assert (score.normal_called_normal.hits, score.normal_called_normal.total) == (1, 1)


def test_nothing_scored_has_no_shares() -> None:
    score = score_cases([])
    assert score.sensitivity.share is None
    assert score.false_per_study is None


def test_intervals_are_wilsons() -> None:
    # 8 of 10: (0.8 + 0.19207) / 1.38415 ± 1.95996 · √(0.016 + 0.00960) / 1.38415
    found = proportion(8, 10)
    assert (found.low, found.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    # 10 of 10: 1 / (1 + 3.84146 / 10) below
    assert (proportion(10, 10).low, proportion(10, 10).high) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))


def test_a_spread_interpolates_between_values() -> None:
    # 95 % of the way along five values lies 0.8 between the fourth and the fifth
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(5, 3.0, pytest.approx(4.8))
