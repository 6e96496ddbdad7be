"""Guidelines in report.json and on the page."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from medvl import guidelines
from medvl.guidelines import fleischner, lung_rads
from medvl.guidelines.apply import apply_guidelines
from medvl.report.document import ReportDocument
from medvl.report.guidelines import fleischner_table, lung_rads_table, report_guideline
from medvl.report.identity import deidentified
from medvl.report.schema import document_json, read_document
from medvl.report.words import words_of
from medvl.stated import Comparison, Feature, LesionKind, Risk, Stated
from tests.guidelines.builders import exam, incidental, lung_finding, screened
from tests.report.examples import a_report
from tests.report.test_html import page_of

ROOM = Path(guidelines.__file__).parent
# Phrases whose last part is a value: where the values come from.
OPEN = {
    "lung_rads.": {*lung_rads.ORDER, *lung_rads.INCOMPLETE},
    "lung_rads.0.": set(lung_rads.INCOMPLETE),
    "fleischner.": set(get_args(fleischner.Advice)),
    "li_rads.": {"LR-3", "LR-4", "LR-5"},
    "size.": {"below", "between", "from", "to", "above"},
    "solid_size.": {"below", "between", "from"},
}


def codes_of_the_room() -> set[str]:
    """Every code that the guidelines' sources can put in a phrase."""
    sources = [path.read_text() for path in ROOM.glob("*.py")]
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    phrases = [node.args[0] for node in calls if getattr(node.func, "id", "") == "Phrase"]
    whole = [part for each in phrases if not isinstance(each, ast.JoinedStr) for part in ast.walk(each)]
    fixed = {each.value for each in whole if isinstance(each, ast.Constant)}
    listed = {code for source in sources for code in re.findall(r'^ {8}\("([a-z_.]+)", ', source, re.MULTILINE)}
    return fixed | listed | {start + end for start, ends in OPEN.items() for end in ends}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_phrase_has_words_and_no_word_is_left_over(language):
    table = words_of(language).table
    assert {key.removeprefix("guideline.") for key in table if key.startswith("guideline.")} == codes_of_the_room()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_value_that_can_be_stated_has_a_word(language):
    table = words_of(language).table
    for group, values in (
        ("lesion_kind", {*get_args(LesionKind), "subsolid"}),
        ("comparison", set(get_args(Comparison))),
        ("lesion_feature", set(get_args(Feature))),
        ("risk", set(get_args(Risk))),
    ):
        assert {key.partition(".")[2] for key in table if key.startswith(f"{group}.")} == values


def a_report_with(said: Stated, *findings, language: str = "en", **known: object) -> ReportDocument:
    answers = apply_guidelines(exam(*findings, **known), said, "on")
    return a_report(guidelines=tuple(map(report_guideline, answers)), language=language)


def test_the_page_shows_the_category_the_row_and_which_inputs_gave_it(tmp_path):
    finding = lung_finding(1, long_axis_mm=8.0, short_axis_mm=7.0, axis_error_mm=0.4)
    text = page_of(tmp_path, a_report_with(screened("solid,baseline", facts=("significant-other",)), finding)).text
    for words in (
        "Lung-RADS v2022 1 3 S solid, baseline, 6 to below 8 mm Low-dose CT in 6 months",
        "Measured: finding 1, mean diameter 7.5 ± 0.4 mm, from a box of 8.0 × 7.0 mm on slice 12",
        "Stated by the user: a screening examination, solid, baseline",
        "Fleischner 2017 Cannot be applied because: this is stated to be a screening examination",
    ):
        assert words in text, words


def test_the_page_shows_both_rows_where_the_error_reaches_over_a_threshold(tmp_path):
    said = incidental("solid", risk="high")
    text = page_of(tmp_path, a_report_with(said, lung_finding(2, 6.0, error_mm=1.0))).text
    for words in (
        "solid, single nodule, 6 to 8 mm, high risk CT at 6 to 12 months, then CT at 18 to 24 months",
        "solid, single nodule, below 6 mm, high risk CT at 12 months is optional",
        "the measurement’s error spans the threshold",
        "not a screening examination, age 64, no known cancer, not immunosuppressed, high risk, solid",
    ):
        assert words in text, words


def test_a_chinese_page_says_it_in_chinese(tmp_path):
    text = page_of(tmp_path, a_report_with(screened("solid,baseline"), lung_finding(1, 7.0), language="zh")).text
    assert "实性，基线，6 mm 至小于 8 mm" in text
    assert "6 个月后行低剂量 CT" in text
    assert "无法应用，原因： 据述为筛查检查，应采用 Lung-RADS" in text


def test_the_documentation_shows_every_row():
    # Made by: python -c "from medvl.report.guidelines import *; print(lung_rads_table(), fleischner_table())"
    page = (Path(__file__).parents[2] / "docs" / "guidelines.md").read_text("utf-8")
    assert lung_rads_table() in page
    assert fleischner_table() in page


def test_a_page_without_guidelines_has_no_place_for_them(tmp_path):
    assert "Guidelines" not in page_of(tmp_path, a_report()).text


def test_a_finding_that_the_page_does_not_list_is_not_linked(tmp_path):
    report = replace(a_report_with(screened("solid,baseline"), lung_finding(1)), findings=(), key_images=())
    page = page_of(tmp_path, replace(report, impression=replace(report.impression, sentences=())))
    assert "#s1-f1" not in [attributes["href"] for attributes in page.all("a")]


def test_the_report_s_json_holds_codes_values_and_english_words_and_comes_back(tmp_path):
    report = a_report_with(screened("solid,baseline"), lung_finding(1, 7.4, error_mm=0.6), language="zh")
    path = tmp_path / "report.json"
    path.write_bytes(document_json(report))
    read = read_document(path)
    assert read == report
    first, second = read.guidelines[0].results
    assert (first.name, second.name) == ("3", "4A")
    assert first.management is not None
    assert (first.management.code, first.management.text) == ("lung_rads.3", "Low-dose CT in 6 months")


def test_a_report_of_before_guidelines_is_still_read(tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(document_json(a_report()).replace(b' "guidelines": [],\n', b""))
    assert b"guidelines" not in path.read_bytes()
    assert read_document(path).guidelines == ()


def test_a_patient_named_like_a_guideline_keeps_a_readable_report(tmp_path):
    report = a_report_with(screened("solid,baseline"), lung_finding(1))
    report = replace(report, patient=replace(report.patient, name="Lung_Rads^Solid"))
    text = page_of(tmp_path, deidentified(report)).text
    assert "Lung-RADS v2022" in text
