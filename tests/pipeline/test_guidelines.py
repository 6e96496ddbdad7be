"""Guidelines at the end of the line: what a run's own findings, headers and settings give."""

from __future__ import annotations

import pytest

from medvl.stated import Stated, parse_lesions
from tests.pipeline.bench import Bench, report_bright, write_body, write_checkpoint
from tests.reader_fakes import ScriptedReader

SCREENED = Stated(screening=True, known_cancer=False, lesions=parse_lesions(["solid,baseline"]))


def test_a_screening_ct_read_by_an_evaluated_model_gets_its_category(bench: Bench) -> None:
    write_checkpoint(bench.checkpoint, evaluated=True)
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright), stated=SCREENED)
    report = bench.report()
    [lung_rads, fleischner] = report.guidelines
    # 20 × 20 mm; an error of two pixels of 5 mm and a grid step of 0.32 mm: 9.7 to 30.3 mm.
    assert [(result.name, result.row[-1].text) for result in lung_rads.results] == [
        ("4B", "15 mm or more"),
        ("4A", "8 to below 15 mm"),
    ]
    assert [reason.code for reason in fleischner.reasons][:1] == ["fleischner.screening"]
    assert ("stated", "screening; no known cancer; solid,baseline") in report.provenance.settings


def test_a_model_that_is_not_marked_as_evaluated_gives_no_category(bench: Bench) -> None:
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright))
    assert bench.report().guidelines == ()
    bench.run(ScriptedReader(report_bright), stated=SCREENED)
    assert {reason.code for each in bench.report().guidelines for reason in each.reasons} == {"not_evaluated"}


@pytest.mark.parametrize(
    ("body_part", "description", "prompt", "codes"),
    [
        ("CHEST", "", None, ["lung_rads", "fleischner"]),
        ("", "Thorax 3.0", None, ["lung_rads", "fleischner"]),
        ("HEAD", "", None, []),
        ("", "", None, []),
        ("", "", "chest_ct", ["lung_rads", "fleischner"]),
    ],
)
def test_only_a_ct_of_the_chest_is_asked_about_lung_nodules(
    bench: Bench, body_part: str, description: str, prompt: str | None, codes: list[str]
) -> None:
    write_body(bench.input, body_part=body_part, description=description)
    bench.run(ScriptedReader(report_bright), guidelines="on", prompt=prompt)
    assert [each.code for each in bench.report().guidelines] == codes


def test_a_prompt_that_the_model_prefers_does_not_make_a_head_a_chest(bench: Bench) -> None:
    write_checkpoint(bench.checkpoint, prompt="chest_ct")
    write_body(bench.input, body_part="HEAD")
    bench.run(ScriptedReader(report_bright), guidelines="on")
    assert bench.report().guidelines == ()
