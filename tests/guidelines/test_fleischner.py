"""Fleischner 2017, cell by cell; sizes are exact here unless a test is about the error."""

from __future__ import annotations

import pytest

from medvl.guidelines.fleischner import ROWS, find_row, whole_mm
from tests.guidelines.builders import advice, answer, cautions, exam, incidental, lung_finding, reasons


def advised(*sizes: float, words: str, **patient: object) -> list[str]:
    findings = [lung_finding(number, mm) for number, mm in enumerate(sizes, 1)]
    return advice(answer("fleischner", exam(*findings), incidental(words, **patient)))


# --- one test per cell ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("risk", "mm", "expected"),
    [
        ("low", 5.0, "none"),
        ("low", 6.0, "ct_6_12_consider_18_24"),
        ("low", 8.0, "ct_6_12_consider_18_24"),
        ("low", 9.0, "ct_3_pet_tissue"),
        ("high", 5.0, "optional_12"),
        ("high", 6.0, "ct_6_12_then_18_24"),
        ("high", 8.0, "ct_6_12_then_18_24"),
        ("high", 9.0, "ct_3_pet_tissue"),
    ],
)
def test_a_single_solid_nodule_goes_by_size_and_risk(risk, mm, expected):
    assert advised(mm, words="solid", risk=risk) == [expected]


@pytest.mark.parametrize(
    ("risk", "mm", "expected"),
    [
        ("low", 5.0, "none"),
        ("low", 6.0, "ct_3_6_consider_18_24"),
        ("low", 12.0, "ct_3_6_consider_18_24"),
        ("high", 5.0, "optional_12"),
        ("high", 6.0, "ct_3_6_then_18_24"),
        ("high", 12.0, "ct_3_6_then_18_24"),
    ],
)
def test_several_solid_nodules_go_by_the_largest_and_the_risk(risk, mm, expected):
    assert advised(4.0, mm, words="solid", risk=risk) == [expected]


@pytest.mark.parametrize(("mm", "expected"), [(5.0, "none"), (6.0, "confirm_every_2_years")])
def test_a_single_ground_glass_nodule_goes_by_size_alone(mm, expected):
    assert advised(mm, words="ground-glass") == [expected]


def test_a_single_part_solid_nodule_below_6_mm_needs_no_follow_up():
    assert advised(5.0, words="part-solid") == ["none"]


def test_a_single_part_solid_nodule_of_6_mm_with_a_small_solid_part_is_followed_yearly():
    assert advised(9.0, words="part-solid,solid-part=5.4") == ["yearly_5_years"]


def test_a_single_part_solid_nodule_with_a_solid_part_of_6_mm_is_checked_for_persistence():
    assert advised(9.0, words="part-solid,solid-part=5.5") == ["persistence_3_6"]


@pytest.mark.parametrize("words", ["ground-glass", "part-solid,solid-part=3"])
@pytest.mark.parametrize(("mm", "expected"), [(5.0, "ct_3_6_consider_2_4_years"), (6.0, "ct_3_6_most_suspicious")])
def test_several_subsolid_nodules_go_by_the_largest(words, mm, expected):
    assert advised(3.5, mm, words=words) == [expected]


def test_every_cell_is_found_by_a_nodule_that_fits_it():
    for row in ROWS:
        for kind in row.kinds:
            assert find_row(kind, row.several, row.risk, int(row.size[0]), int(row.solid[0])) == row


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tenths", "expected"), [(54, 5), (55, 6), (84, 8), (85, 9)])
def test_diameters_are_rounded_to_whole_millimetres(tenths, expected):
    assert whole_mm(tenths) == expected


def test_the_mean_of_both_axes_decides_and_not_the_longer_one():
    # (7.0 + 3.8) / 2 = 5.4, which is 5 mm.
    long_one = lung_finding(1, long_axis_mm=7.0, short_axis_mm=3.8)
    assert advice(answer("fleischner", exam(long_one), incidental("solid", risk="low"))) == ["none"]


def test_an_error_that_reaches_over_a_threshold_gives_both_recommendations_the_measured_one_first():
    # 6.0 ± 1.0 mm: 5.0 to 7.0.
    found = answer("fleischner", exam(lung_finding(1, 6.0, error_mm=1.0)), incidental("solid", risk="low"))
    assert advice(found) == ["ct_6_12_consider_18_24", "none"]
    assert "error_spans" in cautions(found)


def test_the_error_of_every_nodule_counts_for_the_largest():
    # The first is 5.0 mm; the second is 4.0 ± 1.5 mm and may be the larger one, of 5.5 mm.
    both = exam(lung_finding(1, 5.0), lung_finding(2, 4.0, error_mm=1.5))
    found = answer("fleischner", both, incidental("solid", risk="low"))
    assert advice(found) == ["none", "ct_3_6_consider_18_24"]


# --- the error of a public calculator, found by an audit -------------------------------------------------------------


def test_a_part_solid_nodule_of_6_mm_is_never_followed_yearly_without_a_ct_at_3_to_6_months():
    from medvl.report.words import words_of

    for row in ROWS:
        if "part-solid" in row.kinds and row.size[0] >= 6:
            assert "3 to 6 months" in words_of("en")(f"guideline.fleischner.{row.advice}")
            assert "3 至 6 个月" in words_of("zh")(f"guideline.fleischner.{row.advice}")


# --- whom it is for --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patient", "reason"),
    [
        ({"screening": True}, "fleischner.screening"),
        ({"age": 34}, "fleischner.age"),
        ({"known_cancer": True}, "fleischner.cancer"),
        ({"immunosuppressed": True}, "fleischner.immunosuppressed"),
        ({"screening": None}, "screening_unsaid"),
        ({"age": None}, "age_unsaid"),
        ({"known_cancer": None}, "cancer_unsaid"),
        ({"immunosuppressed": None}, "immunosuppression_unsaid"),
        ({"risk": None}, "fleischner.risk_unsaid"),
    ],
)
def test_it_is_for_incidental_nodules_of_grown_patients_and_nothing_is_pre_filled(patient, reason):
    said = incidental("solid", **({"risk": "low"} | patient))
    assert reasons(answer("fleischner", exam(lung_finding()), said)) == {reason}


def test_a_patient_of_35_years_is_old_enough():
    assert advised(5.0, words="solid", risk="low", age=35) == ["none"]


@pytest.mark.parametrize(
    ("words", "mm", "reason"),
    [
        ("1:baseline", 7.0, "no_kind"),
        ("1:part-solid", 7.0, "no_solid_part"),
        ("1:part-solid,solid-part=8", 7.0, "solid_part_too_large"),
        ("1:solid,growing", 7.0, "fleischner.followed"),
        ("1:solid,earlier=5,months=8", 7.0, "fleischner.followed"),
        ("1:juxtapleural", 7.0, "fleischner.kind"),
        ("1:solid", 31.0, "fleischner.mass"),
        ("1:solid", None, "no_millimetres"),
    ],
)
def test_what_is_missing_of_a_nodule_or_outside_the_table_is_said(words, mm, reason):
    found = answer("fleischner", exam(lung_finding(1, mm)), incidental(words, risk="low"))
    assert reasons(found) == {reason}


def test_a_nodule_of_30_mm_is_no_mass_yet():
    assert advised(30.4, words="solid", risk="low") == ["ct_3_pet_tissue"]


def test_of_solid_and_subsolid_nodules_a_person_names_the_one_that_guides():
    both = exam(lung_finding(1, 12.0), lung_finding(2, 7.0))
    mixed = incidental("1:ground-glass", "2:solid", risk="high")
    assert reasons(answer("fleischner", both, mixed)) == {"fleischner.mixed"}
    named = incidental("1:ground-glass", "2:solid,dominant", risk="high")
    found = answer("fleischner", both, named)
    assert (advice(found), found.finding) == (["ct_3_6_then_18_24"], 2)


def test_a_study_without_a_nodule_or_read_in_part_gets_no_recommendation():
    said = incidental("solid", risk="low")
    assert reasons(answer("fleischner", exam(), said)) == {"no_nodule"}
    assert reasons(answer("fleischner", exam(lung_finding(), complete=False), said)) == {"incomplete"}
