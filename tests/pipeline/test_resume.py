import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from medvl.errors import ModelError
from medvl.planning.device import Device
from medvl.settings import Settings
from tests.pipeline.bench import (
    ROOMY,
    Bench,
    Notes,
    chunk_calls,
    is_impression,
    report_bright,
    timeless,
    write_body,
    write_checkpoint,
)
from tests.reader_fakes import IDENTITY, ScriptedReader, StreamingReader

CHUNKS = 4  # of the body's twelve slices


@pytest.fixture
def uninterrupted(tmp_path: Path) -> dict:
    """The report of the body, read in one go."""
    whole = Bench(tmp_path / "whole")
    write_body(whole.input)
    write_checkpoint(whole.checkpoint)
    whole.run(ScriptedReader(report_bright))
    return timeless(whole.output)


# --- interrupted -------------------------------------------------------------------------------------------------


def test_an_interrupt_leaves_an_incomplete_report_of_what_was_read(bench):
    write_body(bench.input)
    reader, notes = ScriptedReader(report_bright, interrupt_at=3), Notes()
    with pytest.raises(KeyboardInterrupt):
        bench.run(reader, watcher=notes)
    document = bench.report()
    assert document.status == "partial"
    assert [len(fate.read_in) for fate in document.series[0].slices] == [1, 1, 2, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert {fate.not_read_because for fate in document.series[0].slices[6:]} == {
        "not reached yet: the run ended before"
    }
    assert len(document.findings) == 1
    assert document.impression.written_by == "template"
    assert "INCOMPLETE" in bench.pages()["index.html"]
    assert any(line.startswith("The report so far: ") for line in notes.lines)
    assert reader.closed


def test_only_what_is_missing_is_read_when_a_run_is_resumed(bench, uninterrupted):
    write_body(bench.input)
    with pytest.raises(KeyboardInterrupt):
        bench.run(ScriptedReader(report_bright, interrupt_at=3))
    second, notes = ScriptedReader(report_bright), Notes()
    outcome = bench.run(second, watcher=notes)
    assert chunk_calls(second) == CHUNKS - 2
    assert notes.known == [2]
    assert (outcome.studies[0].chunks_known, outcome.studies[0].chunks_read_now) == (2, 2)
    assert timeless(bench.output) == uninterrupted


def test_an_interrupt_while_the_impression_is_written_loses_no_chunk(bench, uninterrupted):
    write_body(bench.input)
    with pytest.raises(KeyboardInterrupt):
        bench.run(ScriptedReader(report_bright, interrupt_at=CHUNKS + 1))
    assert bench.report().impression.written_by == "template"
    second = ScriptedReader(report_bright)
    bench.run(second)
    assert [is_impression(request) for request in second.requests] == [True]
    assert timeless(bench.output) == uninterrupted


def test_an_interrupt_before_the_first_chunk_writes_no_empty_report_over_a_finished_one(bench):
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright))
    before = timeless(bench.output)
    with pytest.raises(KeyboardInterrupt):
        bench.run(ScriptedReader(interrupt_at=1), windows=("lung",))
    assert timeless(bench.output) == before


def test_a_model_that_breaks_down_leaves_what_was_read(bench):
    def breaks_down(request):
        if len(reader.calls) == 3:
            raise ModelError("The model broke down")
        return report_bright(request)

    write_body(bench.input)
    reader = ScriptedReader(breaks_down)
    with pytest.raises(ModelError, match="broke down"):
        bench.run(reader)
    assert sum(bool(fate.read_in) for fate in bench.report().series[0].slices) == 6


def test_an_interrupted_run_of_several_studies_lists_the_finished_ones(bench):
    write_body(bench.input / "1", study="a", extra={"StudyDate": "20240202"}, study_description="Read first")
    write_body(bench.input / "2", study="b", extra={"StudyDate": "20230101"})
    with pytest.raises(KeyboardInterrupt):
        bench.run(ScriptedReader(interrupt_at=CHUNKS + 1))
    assert "Read first" in bench.pages()["index.html"]


@pytest.mark.parametrize("kind", [ScriptedReader, StreamingReader])
def test_killed_anywhere_a_run_is_finished_by_the_next(bench, uninterrupted, kind):
    write_body(bench.input)
    write_checkpoint(bench.checkpoint)
    for chunks_before_the_end in (1, 2):
        ended = subprocess.run(
            [sys.executable, "-c", _KILLS_ITSELF, str(bench.root), kind.__name__, str(chunks_before_the_end)],
            check=False,
        )
        assert ended.returncode == -signal.SIGKILL
    reader = kind(report_bright)
    bench.run(reader)
    assert chunk_calls(reader) == CHUNKS - 3
    assert timeless(bench.output) == uninterrupted
    assert [path for path in bench.output.rglob("*") if path.name.startswith(".") and path.name != ".lock"] == []


@pytest.mark.parametrize("answered", range(CHUNKS))
def test_replies_that_arrive_in_any_order_make_the_same_report_however_often_it_is_interrupted(bench, answered):
    def interrupt(request):
        if len(list(bench.output.glob("*/*/ledger/sha256-*"))) == answered:
            raise KeyboardInterrupt
        return report_bright(request)

    def last(count):
        return count - 1

    write_body(bench.input)
    with pytest.raises(KeyboardInterrupt):
        bench.run(StreamingReader(interrupt, ends=last), batch=3)
    second = StreamingReader(report_bright, ends=last)
    bench.run(second, batch=3)
    assert chunk_calls(second) == CHUNKS - answered
    resumed = timeless(bench.output)
    bench.run(ScriptedReader(report_bright), batch=3, force=True)  # in the plan's order, in one go
    assert timeless(bench.output) == resumed


@pytest.mark.parametrize(("kind", "rows"), [(ScriptedReader, [1, 1]), (StreamingReader, [2])])
def test_missing_chunks_of_two_batches_meet_only_in_a_reader_whose_replies_are_independent(bench, kind, rows):
    paths = write_body(bench.input)
    bench.run(ScriptedReader(), batch=2)
    for path in (paths[0], paths[11]):  # each in one chunk alone: the last of the second batch, the first of the first
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    reader = kind()
    bench.run(reader, batch=2)
    assert reader.rows == rows


_KILLS_ITSELF = """
import os, signal, sys
from pathlib import Path
from tests.pipeline.bench import Bench, report_bright
from tests import reader_fakes

def kill(request):
    if len(reader.calls) > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return report_bright(request)

reader = getattr(reader_fakes, sys.argv[2])(kill)
Bench(Path(sys.argv[1])).run(reader)
"""


@pytest.mark.slow
def test_the_command_killed_while_the_demo_model_reads_is_finished_by_the_next(tmp_path):
    write_body(tmp_path / "input", count=20)
    environment = {**os.environ, "MEDVL_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def command(output: str) -> list[str]:
        medvl = [sys.executable, "-m", "medvl", "study", str(tmp_path / "input"), "--model", "demo"]
        return [*medvl, "--window", "lung", "--chunk", "3", "--batch", "1", "-o", str(tmp_path / output)]

    run = subprocess.Popen(command("killed"), env=environment)
    while run.poll() is None and len(list((tmp_path / "killed").glob("*/*/ledger/sha256-*"))) < 2:
        time.sleep(0.01)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    subprocess.run(command("killed"), env=environment, check=True)
    subprocess.run(command("whole"), env=environment, check=True)
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")


# --- finished ----------------------------------------------------------------------------------------------------


def test_a_finished_study_makes_its_report_again_without_the_model(bench):
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright))
    before = timeless(bench.output)
    for page in bench.output.rglob("*.html"):
        page.unlink()
    outcome = bench.run()
    assert outcome.exit_status == 0
    assert timeless(bench.output) == before
    assert outcome.studies[0].page.exists()


def test_a_finished_study_needs_neither_torch_nor_transformers(bench):
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright))
    code = """
import sys
from pathlib import Path
from tests.pipeline.bench import Bench
Bench(Path(sys.argv[1])).run()
print(*{"torch", "transformers", "bitsandbytes"} & set(sys.modules))
"""
    told = subprocess.run([sys.executable, "-c", code, str(bench.root)], capture_output=True, text=True, check=True)
    assert told.stdout.split() == []


def test_a_study_finished_with_much_memory_stays_finished_when_little_is_free(bench):
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright), precision="auto")
    busy = replace(ROOMY, free_bytes=2**20)
    assert bench.run(device=busy, precision="auto").exit_status == 0


def test_another_machine_plans_for_its_own_memory(bench):
    write_body(bench.input)
    bench.run(ScriptedReader())
    small, reader = Device("cpu", "host memory", 2**20, 2**21), ScriptedReader()
    bench.run(reader, device=small)
    assert chunk_calls(reader) == 12  # one picture at a time


def test_force_reads_everything_again(bench):
    write_body(bench.input)
    bench.run(ScriptedReader())
    reader = ScriptedReader()
    bench.run(reader, force=True)
    assert chunk_calls(reader) == CHUNKS


def test_a_damaged_ledger_entry_is_read_again(bench, uninterrupted):
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright))
    entries = [path for path in bench.output.glob("*/*/ledger/sha256-*") if json.loads(path.read_text())["silhouettes"]]
    entries[0].write_bytes(entries[0].read_bytes()[:50])
    reader = ScriptedReader(report_bright)
    bench.run(reader)
    assert len(reader.requests) == 1
    assert timeless(bench.output) == uninterrupted


# --- what is read again, and what is not -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"windows": ("lung",)},
        {"prompt": "generic_ct"},
        {"precision": "bf16"},
        {"temperature": 0.7},
        {"max_new_tokens": 500},
        {"chunk": "6"},
        {"size_px": 96},
        {"slab": "6"},
        {"language": "zh"},  # the prompt is written in it
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_question_is_read_again(bench, change):
    write_body(bench.input)
    bench.run(ScriptedReader())
    reader, notes = ScriptedReader(), Notes()
    bench.run(reader, watcher=notes, **change)
    assert notes.known == [0]
    assert chunk_calls(reader) > 0


def test_other_weights_read_again(bench):
    write_body(bench.input)
    bench.run(ScriptedReader())
    write_checkpoint(bench.checkpoint, weights=b"trained further")
    reader = ScriptedReader()
    bench.run(reader)
    assert chunk_calls(reader) == CHUNKS


def test_a_word_changed_in_a_prompt_file_reads_again(bench):
    write_body(bench.input)
    prompt = bench.root / "mine.md"
    prompt.write_text("Look well.\n[[PICTURES]]\nAnswer in JSON.")
    bench.run(ScriptedReader(), prompt=str(prompt))
    bench.run(prompt=str(prompt))
    prompt.write_text("Look very well.\n[[PICTURES]]\nAnswer in JSON.")
    reader = ScriptedReader()
    bench.run(reader, prompt=str(prompt))
    assert chunk_calls(reader) == CHUNKS


def test_one_slice_changed_reads_only_the_chunks_that_show_it(bench):
    paths = write_body(bench.input)
    bench.run(ScriptedReader())
    content = bytearray(paths[11].read_bytes())
    content[-1] ^= 1
    paths[11].write_bytes(content)
    reader = ScriptedReader()
    bench.run(reader)
    assert chunk_calls(reader) == 1


@pytest.mark.parametrize("change", [{"deidentify": True}, {"batch": 3}, {"memory_bytes": 2**33}, {"decode": "engine"}])
def test_what_does_not_change_the_question_reads_nothing_again(bench, change):
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright))
    assert bench.run(**change).exit_status == 0


def test_the_same_files_elsewhere_under_other_names_are_known(bench):
    paths = write_body(bench.input)
    bench.run(ScriptedReader(report_bright))
    for number, path in enumerate(paths):
        path.rename(bench.input / f"moved {number}.dcm")
    assert bench.run().exit_status == 0


def test_a_new_template_reads_nothing_again(bench, monkeypatch):
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright))
    monkeypatch.setattr("medvl.report.html._style", lambda words: "body { color: teal }")
    outcome = bench.run()
    assert "color: teal" in outcome.studies[0].page.read_text()


# --- two at once -------------------------------------------------------------------------------------------------


def test_a_second_run_on_the_same_study_waits_and_finds_everything_read(bench, uninterrupted):
    write_body(bench.input)
    write_checkpoint(bench.checkpoint)
    reads, waits = threading.Event(), threading.Event()

    def slowly(request):
        reads.set()
        assert waits.wait(timeout=20)
        return report_bright(request)

    first = threading.Thread(target=lambda: bench.run(ScriptedReader(slowly)))
    first.start()
    assert reads.wait(timeout=20)
    notes = Notes(on_note=waits.set)
    outcome = bench.run(watcher=notes)
    first.join(timeout=20)
    assert [line.split(" is ")[0] for line in notes.lines] == ["Another run"]
    assert outcome.studies[0].chunks_known == CHUNKS
    assert timeless(bench.output) == uninterrupted


def test_two_runs_on_two_studies_of_one_patient_both_reach_the_page(bench):
    for name in ("a", "b"):
        write_body(bench.root / name, study=name, study_description=f"visit {name}")
    write_checkpoint(bench.checkpoint)
    runs = [
        threading.Thread(target=lambda name=name: bench.run(ScriptedReader(), paths=(bench.root / name,)))
        for name in ("a", "b")
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(timeout=30)
    [page] = bench.output.glob("*/index.html")
    assert page.read_text().count('<article class="study"') == 2


def test_the_reader_that_really_read_is_named_even_when_the_report_is_made_again(bench):
    write_body(bench.input)
    bench.run(ScriptedReader(identity=replace(IDENTITY, device="card X")))
    bench.run()
    assert bench.report().provenance.reader.device == "card X"


def test_settings_say_what_was_asked_and_no_folder(bench):
    write_body(bench.input)
    bench.run(ScriptedReader())
    shown = dict(bench.report().provenance.settings)
    assert shown["model"] == "checkpoint"
    assert shown["chunk_length"] == "4"
    assert set(shown) <= {field for field in Settings.__slots__} | {"chunk_length", "overlap"}
    assert "output" not in shown
