from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.findings.impression import describe_findings, parse_impression, plain_impression
from medvl.records import Finding, Sentence
from tests.findings.builders import make_finding


def make_impression(*sentences: tuple[object, object]) -> str:
    return json.dumps({"impression": [{"text": text, "findings": findings} for text, findings in sentences]})


def some_findings(count: int) -> list[Finding]:
    """Findings of 20 × 10 mm on the left, numbered from 1."""
    return [make_finding(number=number) for number in range(1, count + 1)]


def test_findings_are_described_one_a_line() -> None:
    first = make_finding(number=1, description="Smooth margin.")
    second = make_finding(
        number=2, observation="effusion", site="", side="none", first_slice=12, last_slice=12, depth_mm=None
    )
    assert describe_findings([first, second], "en").splitlines() == [
        "1. nodule, right upper lobe, right, 20 × 10 × 7 mm, slices 11–13, probable. Smooth margin.",
        "2. effusion, 20 × 10 mm, slice 12, probable.",
    ]


def test_depth_alone_is_no_size() -> None:
    flat = make_finding(number=1, width_mm=None, height_mm=None, center_lps_mm=None)
    assert describe_findings([flat], "en") == "1. nodule, right upper lobe, right, slices 11–13, probable."


def test_findings_are_described_in_chinese() -> None:
    finding = make_finding(number=1, observation="结节", site="右肺上叶", description="边缘光滑。")
    assert (
        describe_findings([finding], "zh") == "1. 结节，右肺上叶，右侧，20 × 10 × 7 mm，第 11–13 层，很可能。边缘光滑。"
    )


def test_sentences_with_their_findings_are_kept() -> None:
    text = make_impression(("Two nodules.", [2, 1, 2]), ("Effusion.", [3]))
    assert parse_impression(text, some_findings(3)) == (Sentence("Two nodules.", (1, 2)), Sentence("Effusion.", (3,)))


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("A mass.", [4]),
        ("A mass.", [0]),
        ("A mass.", []),
        ("A mass.", None),
        ("A mass.", [True]),
        ("A mass.", ["1"]),
        ("", [1]),
        (7, [1]),
        ("x" * 201, [1]),
    ],
)
def test_a_sentence_without_evidence_or_sense_falls(text: object, cited: object) -> None:
    assert parse_impression(make_impression((text, cited)), some_findings(3)) is None
    assert parse_impression(make_impression((text, cited), ("Effusion.", [3])), some_findings(3)) == (
        Sentence("Effusion.", (3,)),
    )


def test_a_sentence_said_twice_stands_once() -> None:
    text = make_impression(("A mass.", [1]), ("A MASS.", [2]))
    assert parse_impression(text, some_findings(3)) == (Sentence("A mass.", (1,)),)


def test_an_impression_has_at_most_five_sentences() -> None:
    parsed = parse_impression(
        make_impression(*((f"Nodule {number}.", [number]) for number in range(1, 8))), some_findings(7)
    )
    assert parsed is not None
    assert [sentence.findings for sentence in parsed] == [(1,), (2,), (3,), (4,), (5,)]


def test_an_impression_cut_short_keeps_its_complete_sentences() -> None:
    text = make_impression(("A mass.", [1]), ("Effusion.", [2]))
    assert parse_impression(text[:-10], some_findings(3)) == (Sentence("A mass.", (1,)),)


def test_what_is_no_impression_is_none() -> None:
    assert parse_impression("The lungs are clear.", some_findings(3)) is None


@settings(deadline=None)
@given(st.text(max_size=200), st.integers(0, 3))
def test_any_text_is_parsed_without_an_exception(text: str, finding_count: int) -> None:
    assert parse_impression(text, some_findings(finding_count)) is None


def test_no_finding_is_never_called_normal() -> None:
    assert plain_impression([], 100, 100, "en") == (
        Sentence("No finding was reported in the 100 of 100 slices read.", ()),
    )


def test_what_was_not_read_is_said() -> None:
    assert plain_impression([], 80, 100, "en") == (
        Sentence("No finding was reported in the 80 of 100 slices read.", ()),
        Sentence("20 of 100 slices were not read; nothing is known about them.", ()),
    )
    assert plain_impression([make_finding(number=1)], 80, 100, "zh")[-1] == Sentence(
        "共 100 层，其中 20 层未阅读，情况不明。", ()
    )


def test_the_most_certain_and_largest_findings_come_first_and_none_is_left_out() -> None:
    findings = [make_finding(number=number, width_mm=10.0 + number) for number in range(1, 7)]
    findings.append(make_finding(number=7, certainty="definite", width_mm=5.0))
    sentences = plain_impression(findings, 100, 100, "en")
    assert [sentence.findings for sentence in sentences] == [(7,), (6,), (5,), (4,), (1, 2, 3)]
    assert sentences[1].text == "Finding 6: nodule, right upper lobe, right, 16 × 10 × 7 mm, slices 11–13, probable."
    assert sentences[-1].text == "3 further findings are listed in the table."


def test_a_sentence_that_finds_nothing_is_no_conclusion_from_findings() -> None:
    reply = (
        '{"impression": [{"text": "No acute abnormality.", "findings": [1]}, {"text": "A nodule.", "findings": [1]}]}'
    )
    assert parse_impression(reply, some_findings(1)) == (Sentence("A nodule.", (1,)),)


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("A nodule on the left.", False),  # cites one on each side
        ("Nodules on the left and on the right.", True),
        ("双肺结节，右侧较大。", False),
        ("Two nodules, the largest 20 mm.", True),
        ("Two nodules, the largest 1.5 cm.", True),  # the mean of 20 and 10 mm
        ("Two nodules, the largest 31 mm.", False),
    ],
)
def test_sides_and_sizes_that_the_findings_do_not_have_fall(text: str, stands: bool) -> None:
    findings = [make_finding(number=1, side="left"), make_finding(number=2, side="right")]
    assert (parse_impression(make_impression((text, [1, 2])), findings) is not None) == stands
