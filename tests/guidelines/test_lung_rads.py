"""Lung-RADS v2022, row by row; sizes are exact here unless a test is about the error."""

from __future__ import annotations

import pytest

from medvl.guidelines.lung_rads import ROWS, assess_nodule, find_row, judge_growth, missing_facts
from medvl.guidelines.values import ANY
from tests.guidelines.builders import answer, cautions, exam, lung_finding, names, nodule, reasons, screened


def category(words: str, mm: float | None = None) -> str:
    one = nodule(words, mm)
    assert missing_facts(one) == ()
    [result] = assess_nodule(one)
    return result.name


def asked(words: str, mm: float = 7.0, **patient: object) -> object:
    return answer("lung_rads", exam(lung_finding(1, mm)), screened(words, **patient))


# --- one test per row ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compared", ["baseline", "new", "growing", "slowly-growing", "stable"])
@pytest.mark.parametrize("kind", ["benign-calcification", "fat"])
def test_a_nodule_with_benign_features_is_category_1_whatever_its_size(kind, compared):
    assert category(f"{kind},{compared}", 25.0) == "1"


@pytest.mark.parametrize("compared", ["baseline", "new"])
def test_a_juxtapleural_nodule_below_10_mm_is_category_2(compared):
    assert category(f"juxtapleural,{compared}", 9.9) == "2"


def test_a_juxtapleural_nodule_of_10_mm_is_a_solid_nodule_like_any_other():
    assert category("juxtapleural,baseline", 10.0) == "4A"
    assert category("juxtapleural,new", 10.0) == "4B"


@pytest.mark.parametrize(
    ("mm", "expected"),
    [(5.9, "2"), (6.0, "3"), (7.9, "3"), (8.0, "4A"), (14.9, "4A"), (15.0, "4B"), (40.0, "4B")],
)
def test_a_solid_nodule_at_baseline_changes_category_at_6_8_and_15_mm(mm, expected):
    assert category("solid,baseline", mm) == expected


@pytest.mark.parametrize(
    ("mm", "expected"), [(3.9, "2"), (4.0, "3"), (5.9, "3"), (6.0, "4A"), (7.9, "4A"), (8.0, "4B"), (20.0, "4B")]
)
def test_a_new_solid_nodule_changes_category_at_4_6_and_8_mm(mm, expected):
    assert category("solid,new", mm) == expected


@pytest.mark.parametrize(("mm", "expected"), [(4.0, "4A"), (7.9, "4A"), (8.0, "4B")])
def test_a_growing_solid_nodule_is_4a_below_8_mm_and_4b_from_there(mm, expected):
    assert category("solid,growing", mm) == expected


@pytest.mark.parametrize("kind", ["solid", "part-solid,solid-part=3"])
def test_slow_growth_over_several_screens_is_4b(kind):
    assert category(f"{kind},slowly-growing", 7.0) == "4B"


def test_a_part_solid_nodule_below_6_mm_at_baseline_is_category_2():
    assert category("part-solid,baseline,solid-part=3", 5.9) == "2"


@pytest.mark.parametrize(("solid", "expected"), [(5.9, "3"), (6.0, "4A"), (7.9, "4A"), (8.0, "4B")])
def test_a_part_solid_nodule_at_baseline_goes_by_its_solid_part(solid, expected):
    assert category(f"part-solid,baseline,solid-part={solid}", 12.0) == expected


def test_a_new_part_solid_nodule_below_6_mm_in_all_is_category_3():
    assert category("part-solid,new,solid-part=3.9", 5.9) == "3"


def test_a_new_part_solid_nodule_of_6_mm_with_a_small_solid_part_is_4a():
    assert category("part-solid,new,solid-part=3.9", 6.0) == "4A"


@pytest.mark.parametrize("compared", ["new", "growing"])
@pytest.mark.parametrize("mm", [5.0, 12.0])
def test_a_new_or_growing_solid_part_of_4_mm_is_4b(compared, mm):
    assert category(f"part-solid,{compared},solid-part=4", mm) == "4B"


@pytest.mark.parametrize("mm", [5.0, 12.0])
def test_a_growing_solid_part_below_4_mm_is_4a(mm):
    assert category("part-solid,growing,solid-part=3.9", mm) == "4A"


@pytest.mark.parametrize("compared", ["baseline", "new", "growing", "slowly-growing", "stable"])
def test_a_ground_glass_nodule_below_30_mm_is_category_2(compared):
    assert category(f"ground-glass,{compared}", 29.9) == "2"


@pytest.mark.parametrize("compared", ["baseline", "new"])
def test_a_ground_glass_nodule_of_30_mm_at_first_sight_is_category_3(compared):
    assert category(f"ground-glass,{compared}", 30.0) == "3"


@pytest.mark.parametrize("compared", ["stable", "slowly-growing"])
def test_a_ground_glass_nodule_of_30_mm_that_is_stable_or_grows_slowly_is_category_2(compared):
    assert category(f"ground-glass,{compared}", 30.0) == "2"


@pytest.mark.parametrize("compared", ["baseline", "new", "stable"])
def test_a_subsegmental_airway_nodule_is_category_2(compared):
    assert category(f"airway-subsegmental,{compared}") == "2"


def test_a_segmental_airway_nodule_is_4a_at_baseline():
    assert category("airway-segmental,baseline") == "4A"


@pytest.mark.parametrize("compared", ["stable", "growing"])
def test_a_segmental_airway_nodule_that_persists_is_4b(compared):
    assert category(f"airway-segmental,{compared}") == "4B"


def test_a_growing_cavity_of_a_thick_walled_cyst_is_category_3():
    assert category("thick-walled-cyst,growing-cavity") == "3"


@pytest.mark.parametrize("words", ["thick-walled-cyst,baseline", "multilocular-cyst,baseline", "multilocular-cyst,new"])
def test_an_atypical_cyst_at_baseline_or_one_that_becomes_multilocular_is_4a(words):
    assert category(words) == "4A"


@pytest.mark.parametrize(
    "words", ["thick-walled-cyst,growing-wall", "multilocular-cyst,growing", "multilocular-cyst,denser"]
)
def test_an_atypical_cyst_that_grows_or_grows_denser_is_4b(words):
    assert category(words) == "4B"


def test_a_category_3_nodule_that_is_stable_after_6_months_steps_down_to_2():
    assert category("solid,stable,was=3,months=6", 7.0) == "2"
    assert category("part-solid,stable,was=3,months=6,solid-part=5", 9.0) == "2"


def test_a_category_4a_nodule_that_is_stable_after_3_months_steps_down_to_3():
    assert category("solid,stable,was=4A,months=3", 12.0) == "3"


def test_a_nodule_does_not_step_down_before_its_time():
    assert assess_nodule(nodule("solid,stable,was=3,months=5", 7.0)) == ()
    assert assess_nodule(nodule("solid,stable,was=4a,months=2", 12.0)) == ()


def test_a_4b_nodule_steps_down_only_when_proven_benign():
    assert assess_nodule(nodule("solid,stable,was=4b", 18.0)) == ()
    assert category("solid,stable,was=4b,proven-benign", 18.0) == "2"


def test_every_row_is_found_by_a_nodule_that_fits_it():
    def inside(band: tuple[float, float]) -> int:
        return round(band[0] * 10) if band != ANY else 300

    for row in ROWS:
        for compared in row.compared:
            solid = inside(row.solid) if row.kind == "part-solid" else 0
            assert find_row(row.kind, compared, inside(row.size), solid) == row


# --- growth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("now", "expected"), [(75, "stable"), (76, "growing")])
def test_growth_is_more_than_a_millimetre_and_a_half_within_a_year(now, expected):
    assert judge_growth(6.0, now, 12) == expected


def test_growth_over_more_than_a_year_is_not_judged():
    assert judge_growth(6.0, 80, 13) is None
    assert judge_growth(6.0, 75, 24) == "stable"


def test_a_nodule_that_crosses_a_threshold_is_reclassified_though_it_has_not_grown():
    # 5.8 to 6.2 mm is no growth, and yet 6 mm is category 3.
    assert category("solid,earlier=5.8,months=12,was=2", 6.2) == "3"
    # 7.8 to 8.1 mm was category 3: no step down to 2, but 4A.
    assert category("solid,earlier=7.8,months=6,was=3", 8.1) == "4A"


def test_growth_is_judged_from_the_earlier_diameter():
    assert category("solid,earlier=5.0,months=12,was=2", 7.0) == "4A"
    assert category("solid,earlier=6.9,months=6,was=3", 7.0) == "2"


# --- the errors of a public calculator, found by an audit ------------------------------------------------------------


def test_s_is_a_modifier_beside_the_category_and_never_a_category():
    found = asked("solid,baseline", facts=("significant-other",))
    assert (names(found), found.modifiers) == (["3"], ("S",))
    assert asked("solid,baseline", facts=("no-significant-other",)).modifiers == ()


def test_the_s_modifier_is_not_assumed_where_nothing_is_stated():
    found = asked("solid,baseline")
    assert (found.modifiers, "lung_rads.s_unsaid" in cautions(found)) == ((), True)
    assert "lung_rads.s_unsaid" not in cautions(asked("solid,baseline", facts=("no-significant-other",)))


def test_a_millimetre_of_increase_is_no_growth():
    assert category("solid,earlier=6.5,months=12,was=3", 7.5) == "2"


def test_a_small_new_solid_part_is_not_judged_by_the_thresholds_of_baseline():
    # At baseline a solid part of 5 mm is category 3, and one of 3 mm is, too.
    assert category("part-solid,new,solid-part=5", 9.0) == "4B"
    assert category("part-solid,growing,solid-part=3", 9.0) == "4A"


def test_a_stable_ground_glass_nodule_of_30_mm_is_not_overcalled():
    assert category("ground-glass,stable", 35.0) == "2"


@pytest.mark.parametrize("fact", ["prior-awaited", "lungs-not-evaluable", "infection"])
def test_category_0_has_three_causes_each_with_its_own_management(fact):
    found = answer("lung_rads", exam(lung_finding()), screened(facts=(fact,)))
    assert names(found) == ["0"]
    assert found.results[0].management.code == f"lung_rads.0.{fact}"


def test_category_0_may_have_several_causes():
    found = answer("lung_rads", exam(), screened(facts=("infection", "prior-awaited", "significant-other")))
    assert (names(found), found.modifiers) == (["0", "0"], ("S",))


@pytest.mark.parametrize(("left_out", "reason"), [("screening", "screening_unsaid"), ("known_cancer", "cancer_unsaid")])
def test_no_fact_about_the_patient_is_pre_filled(left_out, reason):
    assert reasons(asked("solid,baseline", **{left_out: None})) == {reason}


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("1:baseline", {"no_kind"}),
        ("1:solid", {"no_comparison"}),
        ("1:part-solid,baseline", {"no_solid_part"}),
        ("1:solid,stable", {"no_earlier_category"}),
        ("1:solid,stable,was=3", {"no_months"}),
        ("1:solid,earlier=6", {"no_earlier_category", "no_months"}),
        ("1:thin-walled-cyst,baseline", {"thin_walled"}),
        ("1:part-solid,baseline,solid-part=8", {"solid_part_too_large"}),
    ],
)
def test_no_fact_about_a_nodule_is_pre_filled(words, missing):
    assert reasons(asked(words)) == missing


# --- 4X ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", ["spiculated", "lymphadenopathy", "metastasis", "doubled-in-a-year"])
@pytest.mark.parametrize("mm", [6.0, 8.0, 15.0])
def test_a_stated_suspicious_feature_makes_category_3_or_4_a_4x(feature, mm):
    assert category(f"solid,baseline,{feature}", mm) == "4X"


def test_a_suspicious_feature_leaves_category_2_as_it_is():
    assert category("solid,baseline,spiculated", 5.0) == "2"


def test_growth_alone_is_no_reason_for_4x():
    assert category("solid,growing", 20.0) == "4B"


def test_spiculation_in_the_words_of_the_model_is_no_reason_for_4x():
    finding = lung_finding(observation="spiculated solid nodule", description="Spiculated margin.")
    assert names(answer("lung_rads", exam(finding), screened("solid,baseline"))) == ["3"]


# --- the examination -------------------------------------------------------------------------------------------------


def test_an_examination_that_is_not_a_screening_gets_no_category():
    assert reasons(asked("solid,baseline", screening=False)) == {"not_screening"}


def test_a_known_cancer_is_not_classified():
    assert reasons(asked("solid,baseline", known_cancer=True)) == {"lung_rads.cancer"}


def test_the_category_is_that_of_the_most_suspicious_nodule():
    both = exam(lung_finding(1, 16.0), lung_finding(2, 5.0))
    found = answer("lung_rads", both, screened("1:ground-glass,baseline", "2:solid,new"))
    assert (names(found), found.finding) == (["3"], 2)


def test_one_nodule_of_unknown_type_leaves_the_examination_without_a_category():
    both = exam(lung_finding(1, 5.0), lung_finding(2, 20.0))
    assert reasons(answer("lung_rads", both, screened("1:solid,baseline"))) == {"no_kind"}


def test_that_no_nodule_was_reported_is_not_category_1():
    assert reasons(answer("lung_rads", exam(), screened())) == {"no_nodule"}


def test_a_study_read_in_part_gets_no_category():
    found = answer("lung_rads", exam(lung_finding(), complete=False), screened("solid,baseline"))
    assert reasons(found) == {"incomplete"}


def test_what_the_table_does_not_speak_of_gets_no_category():
    assert reasons(asked("ground-glass,growing", 31.0)) == {"no_row"}
    assert reasons(asked("airway-segmental,new")) == {"no_row"}


@pytest.mark.parametrize(
    ("words", "mm", "patient", "hinted"),
    [
        ("solid,new", 8.0, {}, True),
        ("solid,new", 7.0, {}, False),
        ("solid,new", 7.0, {"immunosuppressed": True}, True),
        ("solid,baseline", 9.0, {"immunosuppressed": True}, False),
    ],
)
def test_new_nodules_that_may_be_an_infection_bring_category_0_to_mind(words, mm, patient, hinted):
    assert ("lung_rads.may_be_infection" in cautions(asked(words, mm, **patient))) is hinted


def test_more_than_six_new_nodules_bring_category_0_to_mind():
    seven = [lung_finding(number, 3.0) for number in range(1, 8)]
    assert "lung_rads.may_be_infection" in cautions(answer("lung_rads", exam(*seven), screened("solid,new")))
    assert "lung_rads.may_be_infection" not in cautions(answer("lung_rads", exam(*seven[:6]), screened("solid,new")))


# --- the measurement's error -----------------------------------------------------------------------------------------


def test_an_error_that_reaches_over_a_threshold_gives_both_categories_the_measured_one_first():
    # 7.4 ± 0.6 mm: 6.8 to 8.0, and 8.0 is 4A.
    found = answer("lung_rads", exam(lung_finding(1, 7.4, error_mm=0.6)), screened("solid,baseline"))
    assert names(found) == ["3", "4A"]
    assert "error_spans" in cautions(found)


def test_an_error_that_reaches_no_threshold_gives_one_category_and_says_nothing():
    # 7.0 ± 0.9 mm: 6.1 to 7.9.
    found = answer("lung_rads", exam(lung_finding(1, 7.0, error_mm=0.9)), screened("solid,baseline"))
    assert names(found) == ["3"]
    assert "error_spans" not in cautions(found)


def test_an_error_downwards_counts_as_well():
    # 6.2 ± 1.8 mm: 4.4 to 8.0.
    found = answer("lung_rads", exam(lung_finding(1, 6.2, error_mm=1.8)), screened("solid,baseline"))
    assert names(found) == ["3", "2", "4A"]


def test_growth_that_the_error_leaves_open_gives_both_categories():
    # 7.0 ± 0.6 mm after 5.0: an increase of 1.4 to 2.6, so 4A by growth, or 3 by size without it.
    found = answer("lung_rads", exam(lung_finding(1, 7.0, error_mm=0.6)), screened("solid,earlier=5,months=12,was=2"))
    assert names(found) == ["4A", "3"]


def test_a_row_that_only_the_error_reaches_must_exist_too():
    found = answer("lung_rads", exam(lung_finding(1, 29.0, error_mm=1.5)), screened("ground-glass,growing"))
    assert reasons(found) == {"no_row"}


def test_another_nodule_that_is_surely_worse_settles_what_the_error_leaves_open():
    both = exam(lung_finding(1, 7.9, error_mm=0.5), lung_finding(2, 20.0))
    assert names(answer("lung_rads", both, screened("solid,baseline"))) == ["4B"]


def test_another_nodule_that_may_be_worse_is_told():
    both = exam(lung_finding(1, 7.9, error_mm=0.5), lung_finding(2, 7.0))
    assert names(answer("lung_rads", both, screened("solid,baseline"))) == ["3", "4A"]
