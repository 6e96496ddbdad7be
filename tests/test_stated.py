from __future__ import annotations

import pytest

from medvl.errors import SettingsError
from medvl.stated import Stated, StatedLesion, parse_facts, parse_lesions


def test_a_statement_names_a_finding_and_what_it_is():
    [lesion] = parse_lesions(["2: part-solid, solid-part=4.5mm, was=4a, months=3, stable, spiculated"])
    assert lesion == StatedLesion(
        finding=2,
        kind="part-solid",
        compared="stable",
        solid_part_mm=4.5,
        months=3.0,
        earlier_category="4A",
        features=("spiculated",),
    )


def test_a_statement_without_a_number_is_about_every_finding_that_no_other_names():
    said = Stated(lesions=parse_lesions(["solid,baseline", "3:ground-glass"]))
    assert said.about(1).kind == "solid"
    assert said.about(3) == StatedLesion(finding=3, kind="ground-glass")


def test_nothing_is_stated_by_default():
    assert Stated().about(1) == StatedLesion()
    empty = Stated()
    assert (empty.age, empty.screening, empty.risk, empty.immunosuppressed, empty.known_cancer) == (None,) * 5
    assert (empty.facts, empty.lesions) == ((), ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2:sollid", r'"sollid" cannot be used\. Known words are solid, part-solid'),
        ("2:", r'"2:" cannot be used\. What it is, such as'),
        ("", "What it is, such as"),
        ("2:solid,part-solid", '"part-solid" contradicts or repeats'),
        ("2:new,growing", '"growing" contradicts or repeats'),
        ("2:aphe,no-aphe", '"no-aphe" contradicts or repeats'),
        ("2:no-washout,washout", '"washout" contradicts or repeats'),
        ("2:solid-part=x", "solid-part= takes millimetres"),
        ("2:solid-part=-1", "solid-part= takes millimetres"),
        ("2:solid-part=nan", "solid-part= takes millimetres"),
        ("2:earlier=inf", "earlier= takes millimetres"),
        ("2:months=", "months= takes months"),
        ("2:was=5", "was= takes one of 2, 3, 4A, 4B"),
        ("2:solid,stable,earlier=5", "stable is what earlier= is for medvl to judge"),
        ("two:solid", '"two:solid" cannot be used'),
    ],
)
def test_a_word_that_cannot_be_used_is_named(text, said):
    with pytest.raises(SettingsError, match=said):
        parse_lesions([text])


def test_two_statements_about_one_finding_are_refused():
    with pytest.raises(SettingsError, match="One statement about each finding"):
        parse_lesions(["2:solid", "2:new"])


def test_facts_about_the_study_are_checked():
    assert parse_facts(["multiphase", "hcc-risk"]) == ("hcc-risk", "multiphase")
    with pytest.raises(SettingsError, match=r'--stated "smoker" cannot be used\. One of prior-awaited'):
        parse_facts(["smoker"])
    with pytest.raises(SettingsError, match="significant-other was stated, too"):
        parse_facts(["significant-other", "no-significant-other"])


def test_what_is_stated_is_shown_in_the_words_of_the_flags():
    said = Stated(age=64, screening=True, known_cancer=False, risk="high", lesions=parse_lesions(["2:solid,months=6"]))
    assert str(said) == "age 64; risk high; screening; no known cancer; 2:solid,months=6"


@pytest.mark.parametrize(("age", "shown"), [(89, "89"), (90, "90+"), (104, "90+"), (None, "")])
def test_an_age_that_could_tell_who_it_is_is_never_shown(age, shown):
    assert Stated(age=age).shown_age == shown
