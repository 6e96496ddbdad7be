"""LI-RADS v2018, cell by cell."""

from __future__ import annotations

import pytest

from medvl.guidelines.apply import apply_guidelines
from medvl.guidelines.li_rads import categorize, is_liver_observation
from tests.guidelines.builders import answer, cautions, exam, lung_finding, names, reasons, stated

NONE: tuple[str, ...] = ()
ABSENT = "no-aphe,no-washout,no-capsule,no-threshold-growth"
ALL_SAID = "aphe,washout,no-capsule,no-threshold-growth,other-categories-excluded"
FACTS = ("hcc-risk", "multiphase")


def category(mm: float, *features: str, aphe: bool) -> str:
    return categorize(
        round(mm * 10),
        aphe=aphe,
        washout="washout" in features,
        capsule="capsule" in features,
        threshold_growth="growth" in features,
    )


def liver_finding(mm: float | None = 15.0, **changes: object):
    words = {"observation": "hypervascular mass", "site": "liver, segment VI"}
    return lung_finding(1, mm, **(words | changes))


def abdomen(*findings, **changes):
    return exam(*findings, **({"chest_series": frozenset(), "volume_count": 3} | changes))


# --- the grid ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mm", "features", "expected"),
    [
        (19.9, NONE, "LR-3"),
        (19.9, ("washout",), "LR-3"),
        (19.9, ("washout", "capsule"), "LR-4"),
        (20.0, NONE, "LR-3"),
        (20.0, ("capsule",), "LR-4"),
        (20.0, ("washout", "capsule", "growth"), "LR-4"),
    ],
)
def test_without_arterial_hyperenhancement_nothing_is_above_lr_4(mm, features, expected):
    assert category(mm, *features, aphe=False) == expected


@pytest.mark.parametrize(
    ("features", "expected"), [(NONE, "LR-3"), (("washout",), "LR-4"), (("washout", "growth"), "LR-4")]
)
def test_an_enhancing_observation_below_10_mm_is_lr_4_at_most(features, expected):
    assert category(9.9, *features, aphe=True) == expected


@pytest.mark.parametrize("mm", [10.0, 19.9])
@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (NONE, "LR-3"),
        (("capsule",), "LR-4"),
        (("washout",), "LR-5"),
        (("growth",), "LR-5"),
        (("capsule", "washout"), "LR-5"),
        (("capsule", "washout", "growth"), "LR-5"),
    ],
)
def test_an_enhancing_observation_of_10_to_19_mm_with_a_capsule_alone_is_lr_4(mm, features, expected):
    assert category(mm, *features, aphe=True) == expected


@pytest.mark.parametrize(
    ("features", "expected"), [(NONE, "LR-4"), (("capsule",), "LR-5"), (("capsule", "washout"), "LR-5")]
)
def test_an_enhancing_observation_of_20_mm_is_lr_5_with_any_additional_feature(features, expected):
    assert category(20.0, *features, aphe=True) == expected


# --- when it may be applied ------------------------------------------------------------------------------------------


def test_a_category_needs_a_patient_at_risk_several_phases_and_every_feature_stated():
    found = answer("li_rads", abdomen(liver_finding()), stated(f"1:{ALL_SAID}", facts=FACTS))
    assert (names(found), found.finding) == (["LR-5"], 1)


def test_a_single_phase_never_gets_a_category_whatever_is_stated():
    said = stated(f"1:{ALL_SAID}", facts=FACTS)
    assert reasons(answer("li_rads", abdomen(liver_finding(), volume_count=1), said)) == {"li_rads.single_phase"}


def test_several_series_are_not_taken_for_several_phases():
    said = stated(f"1:{ALL_SAID}", facts=("hcc-risk",))
    assert reasons(answer("li_rads", abdomen(liver_finding()), said)) == {"li_rads.single_phase"}


def test_nothing_is_pre_filled():
    found = answer("li_rads", abdomen(liver_finding()), stated())
    assert reasons(found) == {
        "li_rads.single_phase",
        "li_rads.risk_unsaid",
        "li_rads.not_excluded",
        "li_rads.feature_unsaid",
    }
    unsaid = [dict(each.values)["value"] for each in found.reasons if each.code == "li_rads.feature_unsaid"]
    assert unsaid == ["aphe", "washout", "capsule", "threshold-growth"]


def test_a_feature_of_which_nothing_is_stated_is_not_taken_as_absent():
    words = ALL_SAID.replace("no-capsule,", "")
    found = answer("li_rads", abdomen(liver_finding()), stated(f"1:{words}", facts=FACTS))
    assert [dict(each.values)["value"] for each in found.reasons] == ["capsule"]


def test_no_millimetres_and_a_study_read_in_part_leave_no_category():
    found = answer("li_rads", abdomen(liver_finding(None), complete=False), stated(f"1:{ALL_SAID}", facts=FACTS))
    assert reasons(found) == {"no_millimetres", "incomplete"}


def test_the_long_axis_decides_and_its_error_may_reach_another_category():
    # Long axis 20.0 ± 0.5 mm; the mean of both axes would be 15 mm.
    finding = liver_finding(long_axis_mm=20.0, short_axis_mm=10.0, axis_error_mm=0.5)
    words = f"1:{ABSENT},other-categories-excluded".replace("no-aphe", "aphe")
    found = answer("li_rads", abdomen(finding), stated(words, facts=FACTS))
    assert names(found) == ["LR-4", "LR-3"]
    assert "error_spans" in cautions(found)


def test_what_is_not_ct_gets_no_answer():
    assert apply_guidelines(abdomen(liver_finding(), ct_series=frozenset()), stated(), "on") == ()


@pytest.mark.parametrize(
    ("observation", "site", "expected"),
    [
        ("hypodense lesion", "right lobe of the liver", True),
        ("肝占位", "肝右叶", True),
        ("hepatic steatosis", "liver", False),
        ("mass", "porta hepatis lymph node", False),
        ("solid nodule", "right lower lobe", False),
    ],
)
def test_a_liver_observation_is_told_by_its_own_words(observation, site, expected):
    assert is_liver_observation(liver_finding(observation=observation, site=site)) is expected
