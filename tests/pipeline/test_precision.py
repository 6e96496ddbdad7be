"""A bitsandbytes that is installed and does not work: the plan cannot know it, the reader tells."""

import json

import pytest

from medvl.errors import PrecisionError
from medvl.pipeline.run import StudyRun
from tests.pipeline.bench import ROOMY, Notes, report_bright, write_body
from tests.reader_fakes import ScriptedReader

BROKEN = PrecisionError(
    "bitsandbytes does not work on cuda: no kernel", expected="int8 weights need it", todo="Mend it"
)


def run_with_broken_bitsandbytes(bench, notes, **changes):
    """The first reader asked for cannot be had; any later one can."""
    openings = iter([BROKEN])

    def open_reader():
        for error in openings:
            raise error
        return ScriptedReader(report_bright)

    write_body(bench.input)
    settings = bench.settings(**changes)
    return StudyRun(settings, bench.root / "store", watcher=notes, open_reader=open_reader, device=ROOMY).read(
        (bench.input,)
    )


def test_left_to_the_plan_a_study_is_read_with_bf16_weights_instead(bench, monkeypatch):
    monkeypatch.setattr("medvl.planning.plan.has_bitsandbytes", lambda: True)
    notes = Notes()
    outcome = run_with_broken_bitsandbytes(bench, notes, precision="auto")
    assert outcome.exit_status == 0
    assert any("no kernel. Reading with bf16 weights instead" in note for note in notes.lines)
    (run,) = bench.output.glob("*/*/run.json")
    assert json.loads(run.read_text())["plan"]["precision"] == "bf16"


def test_asked_for_by_name_it_stays_an_error(bench, monkeypatch):
    monkeypatch.setattr("medvl.planning.plan.has_bitsandbytes", lambda: True)
    with pytest.raises(PrecisionError, match="no kernel"):
        run_with_broken_bitsandbytes(bench, Notes(), precision="int8")
