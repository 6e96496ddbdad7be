from __future__ import annotations

import pytest

from medvl.guidelines.apply import apply_guidelines, guidelines_allowed
from medvl.guidelines.nodules import is_lung_nodule, lung_nodules
from medvl.guidelines.values import Category, Diameter, Span
from medvl.records import SecondLook
from medvl.stated import Stated
from tests.guidelines.builders import (
    advice,
    answer,
    cautions,
    exam,
    incidental,
    lung_finding,
    reasons,
    screened,
    stated,
)


@pytest.mark.parametrize(
    ("wish", "evaluated", "expected"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("on", False, True),
        ("on", True, True),
        ("off", True, False),
        ("off", False, False),
    ],
)
def test_guidelines_are_off_for_models_that_are_not_evaluated_unless_asked_for(wish, evaluated, expected):
    assert guidelines_allowed(wish, evaluated=evaluated) is expected


def test_off_says_nothing_whatever_is_stated():
    assert apply_guidelines(exam(lung_finding()), screened("solid,baseline"), "off") == ()


def test_a_model_that_is_not_evaluated_gets_no_answer_where_nothing_is_stated():
    assert apply_guidelines(exam(lung_finding(), evaluated=False), Stated(), "auto") == ()


def test_who_states_something_is_told_that_the_model_is_not_evaluated():
    answers = apply_guidelines(exam(lung_finding(), evaluated=False), screened("solid,baseline"), "auto")
    assert [each.guideline for each in answers] == ["lung_rads", "fleischner"]
    assert all(reasons(each) == {"not_evaluated"} for each in answers)


def test_a_category_of_a_model_that_is_not_evaluated_says_so():
    [lung_rads, _] = apply_guidelines(exam(lung_finding(), evaluated=False), screened("solid,baseline"), "on")
    assert "model_not_evaluated" in cautions(lung_rads)
    [lung_rads, _] = apply_guidelines(exam(lung_finding()), screened("solid,baseline"), "on")
    assert "model_not_evaluated" not in cautions(lung_rads)


def test_screening_and_incidental_nodules_have_a_guideline_each_and_never_both():
    for said in (
        screened("solid,baseline", age=64, immunosuppressed=False, risk="low"),
        incidental("solid,baseline", risk="low"),
    ):
        answers = apply_guidelines(exam(lung_finding()), said, "auto")
        assert sum(isinstance(each, Category) for each in answers) == 1


def test_a_study_that_is_no_chest_ct_gets_an_answer_only_where_one_is_asked_for():
    elsewhere = exam(lung_finding(), chest_series=frozenset())
    assert apply_guidelines(elsewhere, Stated(), "auto") == ()
    answers = apply_guidelines(elsewhere, stated(screening=True), "auto")
    assert [reasons(each) for each in answers] == [{"not_chest_ct"}, {"not_chest_ct"}]


def test_every_reason_is_given_and_not_only_the_first():
    found = answer("fleischner", exam(lung_finding()), Stated())
    assert reasons(found) == {
        "screening_unsaid",
        "age_unsaid",
        "cancer_unsaid",
        "immunosuppression_unsaid",
        "no_kind",
    }


def test_who_is_excluded_is_not_asked_for_anything_more():
    screening, incidental_one = (stated(screening=screening) for screening in (True, False))
    assert reasons(answer("fleischner", exam(lung_finding()), screening)) == {"fleischner.screening"}
    assert reasons(answer("lung_rads", exam(lung_finding()), incidental_one)) == {"not_screening"}


def test_a_statement_about_a_finding_that_is_not_there_makes_every_answer_doubtful():
    found = answer("lung_rads", exam(lung_finding(1)), screened("1:solid,baseline", "4:solid,baseline"))
    assert [(each.code, dict(each.values)) for each in found.reasons] == [("no_such_finding", {"number": 4})]


def test_a_second_look_that_does_not_confirm_is_told():
    looks = {verdict: SecondLook(verdict, 0.3) for verdict in ("confirmed", "unconfirmed", "contradicted")}
    told = {
        verdict: "not_confirmed"
        in cautions(answer("lung_rads", exam(lung_finding(second_look=look)), screened("solid,baseline")))
        for verdict, look in looks.items()
    }
    assert told == {"confirmed": False, "unconfirmed": True, "contradicted": True}


def test_nodules_of_several_series_may_be_one_and_the_same():
    other = lung_finding(2, series_uid="1.8")
    both = exam(lung_finding(1), other, chest_series=frozenset({"1.8", "1.9"}))
    assert "several_series" in cautions(answer("lung_rads", both, screened("solid,baseline")))


def test_the_answer_shows_which_inputs_gave_it():
    finding = lung_finding(1, long_axis_mm=8.0, short_axis_mm=7.0, axis_error_mm=0.4)
    found = answer("lung_rads", exam(finding), screened("part-solid,baseline,solid-part=3"))
    assert isinstance(found, Category)
    shown = {each.phrase.code: (dict(each.phrase.values), each.measured) for each in found.inputs}
    assert shown == {
        "screening": ({}, False),
        "finding": ({"number": 1}, True),
        "diameter": ({"mm": 7.5, "error": 0.4, "long": 8.0, "short": 7.0, "slice": 12}, True),
        "kind": ({"value": "part-solid"}, False),
        "solid_part": ({"value": 3.0}, False),
        "compared": ({"value": "baseline"}, False),
    }


# --- which findings are lung nodules ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "site", "expected"),
    [
        ("solid nodule", "right upper lobe", True),
        ("ground-glass nodule", "left lung", True),
        ("Mass", "LUL, apicoposterior segment", True),
        ("实性结节", "右肺上叶", True),
        ("肿块", "左肺", True),
        ("ground-glass opacity", "left lower lobe", False),
        ("consolidation", "left lower lobe", False),
        ("nodule", "left lobe of the thyroid", False),
        ("nodule", "right adrenal", False),
        ("mass", "liver, right lobe", False),
        ("结节", "甲状腺左叶", False),
        ("mass", "anterior mediastinum", False),
        ("lymph node, 12 mm", "right hilum", False),
        ("pleural nodule", "right pleural space", False),
    ],
)
def test_a_lung_nodule_is_told_by_its_own_words(observation, site, expected):
    assert is_lung_nodule(lung_finding(observation=observation, site=site)) is expected


def test_a_finding_that_the_user_gives_a_kind_counts_whatever_the_model_called_it():
    cyst = lung_finding(1, observation="cystic lucency", site="right upper lobe")
    found = answer("lung_rads", exam(cyst), screened("1:thick-walled-cyst,baseline"))
    assert found.results[0].name == "4A"


def test_a_general_statement_makes_no_nodule_of_what_is_none():
    effusion = lung_finding(1, observation="effusion", site="right pleural space")
    assert lung_nodules(exam(effusion), stated("solid,baseline")) == ()


def test_a_finding_that_the_user_rejects_does_not_count():
    both = exam(lung_finding(1, 5.0), lung_finding(2, 20.0))
    said = incidental("solid", "2:not-a-nodule", risk="low")
    assert advice(answer("fleischner", both, said)) == ["none"]


def test_nodules_of_other_series_than_those_of_the_chest_do_not_count():
    assert lung_nodules(exam(lung_finding(series_uid="1.7")), Stated()) == ()


def test_axes_without_a_stated_error_are_no_measurement():
    [nodule] = lung_nodules(exam(lung_finding(axis_error_mm=None)), Stated())
    assert nodule.diameter is None


# --- diameters -------------------------------------------------------------------------------------------------------


def test_each_axis_is_rounded_to_a_tenth_and_so_is_their_mean():
    # 6.04 and 5.85 become 6.0 and 5.9, whose mean of 5.95 becomes 6.0.
    assert Diameter(6.04, 5.85, 0.0).mean.middle == 60


def test_the_mean_is_off_by_no_less_than_an_axis():
    assert Diameter(8.0, 6.0, 1.25).mean == Span(70, 57, 83)


def test_a_diameter_is_never_below_zero():
    assert list(Diameter(0.1, 0.1, 0.2).mean) == [1, 0, 2, 3]
