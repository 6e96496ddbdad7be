import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from medvl.cli import app
from medvl.cli.options import parse_bytes
from medvl.errors import SettingsError
from medvl.pipeline.sources import LocalSource
from medvl.progress import PlainWatcher, TerminalWatcher, make_watcher
from tests.builders import write_dataset
from tests.pipeline.bench import report_bright, write_body, write_checkpoint
from tests.pipeline.test_line import structured_report
from tests.reader_fakes import IDENTITY, ScriptedReader


class Desk:
    """A user's desk: input, checkpoint and output in one folder, commands typed in a process of their own or here."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.input = root / "input"
        self.checkpoint = write_checkpoint(root / "checkpoint")
        self.reader = ScriptedReader(report_bright)
        monkeypatch.setattr(LocalSource, "_load", lambda *_: self.reader)

    def type(self, *words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    def study(self, *words: object) -> Result:
        fixed = ("--model", self.checkpoint, "--precision", "fp32", "--batch", "1", "-o", self.root / "reports")
        return self.type("study", self.input, *fixed, *words)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("MEDVL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return Desk(tmp_path, monkeypatch)


def test_the_wish_for_a_decoding_loop_reaches_the_model_and_the_loop_used_the_report(tmp_path, monkeypatch):
    asked = []

    def load(location, precision, *, decode, **_):
        asked.append((precision, decode))
        return ScriptedReader(report_bright, identity=replace(IDENTITY, decode="engine"))

    monkeypatch.setattr("medvl.reader.qwen.load_qwen_reader", load)
    write_body(tmp_path / "input")
    flags = ("--model", write_checkpoint(tmp_path / "checkpoint"), "--precision", "fp32", "-o", tmp_path / "reports")
    words = ("study", tmp_path / "input", *flags, "--decode", "stock")
    assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    assert asked == [("fp32", "stock")]
    [page] = (tmp_path / "reports").glob("*/index.html")
    assert re.search(r"<dt>Decoding loop</dt>\s*<dd[^>]*>engine</dd>", page.read_text())


# --- study -------------------------------------------------------------------------------------------------------


def test_study_prints_what_was_read_and_where_the_report_is(desk):
    write_body(desk.input)
    result = desk.study()
    [page] = (desk.root / "reports").glob("*/index.html")
    study, report = result.stdout.splitlines()
    assert study.endswith(": 12 of 12 slices read, 1 finding to check")
    assert report == f"  Report: {page}"
    assert result.exit_code == 0


def test_progress_goes_to_stderr(desk):
    write_body(desk.input)
    result = desk.study()
    assert "12 slices in 4 chunks" in result.stderr
    assert "chunks" not in result.stdout


def test_a_resumed_run_says_what_it_knows_already(desk):
    write_body(desk.input)
    desk.study()
    assert "4 chunks known from an earlier run" in desk.study().stderr


def test_several_studies_end_with_the_place_of_all_reports(desk):
    write_body(desk.input / "1", study="one")
    write_body(desk.input / "2", study="two")
    assert desk.study().stdout.splitlines()[-1] == f"All reports: {desk.root / 'reports' / 'index.html'}"


def test_a_study_with_nothing_to_read_is_not_called_read(desk):
    write_body(desk.input / "1", study="one")
    report = structured_report()
    report.StudyInstanceUID = "1.2.3"
    write_dataset(desk.input / "sr", report)
    assert "nothing in it to read" in desk.study().stdout


def test_what_lies_outside_every_study_is_told(desk):
    write_body(desk.input)
    (desk.input / "notes.txt").write_text("nothing")
    assert "Outside any study: notes.txt not read: not a DICOM file" in desk.study().stdout


def test_an_incomplete_report_is_announced_with_exit_status_4(desk):
    write_body(desk.input)
    desk.reader = ScriptedReader(lambda request: "no JSON at all")
    result = desk.study()
    assert "INCOMPLETE" in result.stdout
    assert result.exit_code == 4


def test_an_interrupt_says_how_to_resume_and_exits_130(desk):
    write_body(desk.input)
    desk.reader = ScriptedReader(interrupt_at=3)
    result = desk.study()
    assert "Finished chunks are kept; run the same command again to resume." in result.stderr
    assert "The report so far: " in result.stderr
    assert result.exit_code == 130


def test_a_scheduler_s_sigterm_ends_a_run_as_cleanly(desk):
    def terminate(request):
        os.kill(os.getpid(), signal.SIGTERM)
        return report_bright(request)

    write_body(desk.input)
    desk.reader = ScriptedReader(terminate)
    assert desk.study().exit_code == 130


def test_a_bug_keeps_its_traceback(desk):
    def fail(request):
        raise ZeroDivisionError

    write_body(desk.input)
    desk.reader = ScriptedReader(fail)
    result = desk.study()
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--window", "lnug"), 2, '"lnug" is not a window'),
        (("--precision", "int7"), 2, "One of auto, int8, nf4, bf16, fp32"),
        (("--decode", "fast"), 2, "One of auto, engine, stock"),
        (("--language", "fr"), 2, "One of en, zh"),
        (("--memory", "plenty"), 2, '"plenty" is not an amount of memory'),
        (("--size", "500"), 2, "multiples of 32"),
        (("--slab", "thick"), 2, "--slab 3"),
        (("--chunk", "none"), 2, "--chunk 10"),
        (("--series", "1.2.3"), 2, "There is no series 1.2.3"),
        (("--prompt", "knee"), 2, "There is no prompt 'knee'"),
        (("--batch", "0"), 2, "--batch"),
        (("--risk", "medium"), 2, "One of low, high"),
        (("--lesion", "1:sollid"), 2, "Known words are solid, part-solid"),
        (("--stated", "smoker"), 2, "One of prior-awaited"),
        (("--guidelines", "maybe"), 2, "One of auto, off, on"),
        (("--model", "Qwen/Qwen3-VL-8B-Instruct"), 5, "medvl models pull"),
        (("--model", "no/such-model"), 5, "no/such-model is not on this machine"),
        (("-o", "/dev/null"), 6, "cannot be written"),
    ],
    ids=str,
)
def test_each_mistake_is_a_sentence_and_an_exit_status(desk, words, status, message):
    write_body(desk.input, count=3)
    result = desk.study(*words)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_nothing_readable_exits_3(desk):
    desk.input.mkdir()
    result = desk.study()
    assert "No image worth reading among 0 files" in result.stderr
    assert result.exit_code == 3


def test_what_is_stated_reaches_the_guidelines_and_nothing_else_does(desk):
    write_body(desk.input)
    patient = ("--age", "64", "--no-screening", "--risk", "low", "--no-known-cancer", "--no-immunosuppressed")
    lesion = ("--lesion", "1:solid", "--stated", "multiphase", "--guidelines", "on")
    assert desk.study(*patient, *lesion).exit_code == 0
    [path] = (desk.root / "reports").glob("*/*/report.json")
    _, fleischner = json.loads(path.read_text())["guidelines"]
    assert [given["phrase"]["text"] for given in fleischner["inputs"] if not given["measured"]] == [
        "not a screening examination",
        "age 64",
        "no known cancer",
        "not immunosuppressed",
        "low risk",
        "solid",
    ]


def test_verbose_tells_no_name(desk):
    write_body(desk.input, patient_name="Zephyrine^Quodlibet", patient_id="QX-4711")
    result = desk.study("--verbose")
    assert not {"Quodlibet", "QX-4711"} & set(result.output.replace("/", " ").split())
    assert "Quodlibet" not in result.output


# --- every command -----------------------------------------------------------------------------------------------

COMMANDS = {
    "study": ("study", "INPUT", "--model", "CHECKPOINT", "-o", "REPORTS"),
    "inspect": ("inspect", "INPUT"),
    "plan": ("plan", "INPUT", "--model", "CHECKPOINT"),
    "doctor": ("doctor", "--model", "CHECKPOINT"),
    "prompts list": ("prompts", "list"),
    "prompts show": ("prompts", "show", "chest_ct"),
    "prompts check": ("prompts", "check", "PROMPT"),
    "models list": ("models", "list"),
    "models pull": ("models", "pull", "me/mine", "--from", "CHECKPOINT"),
    "models verify": ("models", "verify", "CHECKPOINT"),
}
MISTAKES = {
    "no such folder": ("inspect", "ABSENT"),
    "nothing to read": ("inspect", "EMPTY"),
    "no path": ("study",),
    "no such command": ("sutdy",),
    "no such flag": ("plan", "INPUT", "--windwo", "lung"),
    "no number": ("study", "INPUT", "--size", "large"),
    "no such window": ("plan", "INPUT", "--window", "lnug", "--model", "CHECKPOINT"),
    "no such model": ("plan", "INPUT", "--model", "no/such-model"),
    "no such prompt": ("prompts", "show", "knee"),
    "not asked": ("models", "rm", "me/mine"),
    "damaged": ("models", "verify", "me/mine"),
}


@pytest.fixture
def typed(desk: Desk):
    """Types a command whose words in capitals stand for what lies on the desk."""
    write_body(desk.input, count=3)
    (desk.root / "empty").mkdir()
    prompt = desk.root / "mine.md"
    prompt.write_text("Look at {{ slice_count }} slices.\n[[PICTURES]]\nAnswer.")
    places = {
        "INPUT": desk.input,
        "CHECKPOINT": desk.checkpoint,
        "REPORTS": desk.root / "reports",
        "PROMPT": prompt,
        "EMPTY": desk.root / "empty",
        "ABSENT": desk.root / "absent",
    }
    return lambda *words: desk.type(*(places.get(word, word) for word in words))


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_with_json_every_command_prints_one_document(typed, words):
    result = typed(*words, "--json")
    assert isinstance(json.loads(result.stdout), dict | list)


@pytest.mark.parametrize("words", MISTAKES.values(), ids=MISTAKES)
def test_with_json_every_mistake_prints_one_document(typed, words):
    if words[-1] == "me/mine":
        typed(*COMMANDS["models pull"])
        next(Path(os.environ["MEDVL_HOME"]).rglob("model.safetensors")).write_bytes(b"cut")
    result = typed(*words, "--json")
    document = json.loads(result.stdout)
    assert document["exit_status"] == result.exit_code > 0
    assert document["error"]


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_quiet_prints_nothing_where_all_is_well(typed, words):
    result = typed(*words, "--quiet")
    if result.exit_code == 0:
        assert result.output == ""
    else:
        assert words[0] in ("doctor", "models")  # what they look at is not well here: the weights are not real
        assert result.stdout == ""


def test_inspect_of_a_folder_without_images_still_tells_what_is_there(typed, desk):
    write_dataset(desk.root / "empty" / "sr", structured_report())
    result = typed("inspect", "EMPTY", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 3
    assert document["studies"][0]["unread"] == [{"file": "sr", "reason": "not an image: Basic Text SR"}]


def test_inspect_names_series_verdict_prompt_and_reason(desk):
    write_body(desk.input / "1", count=1, description="thorax")
    write_body(desk.input / "2", count=2, series="scout", description="scout", series_number=None)
    told = desk.type("inspect", desk.input).stdout
    assert max(map(len, told.splitlines())) <= 80
    told = " ".join(told.split())
    assert "Series 1: CT · CHEST · thorax · 1 frame · READ: axial CT series axial, 1 slice ready with notes" in told
    assert "! a single slice → reads what is there" in told
    assert "prompt chest_ct: CT and body part CHEST (0018,0015)" in told
    assert "Series without number: CT · CHEST · scout · 2 frames · not read: scout (localizer)" in told
    assert "axial, 2 slices every 3 mm not readable" in told


def test_inspect_tells_programs_the_code_and_the_numbers_of_each_note(desk):
    write_body(desk.input, count=6, gap_at=2)
    [stack] = json.loads(desk.type("inspect", desk.input, "--json").stdout)["studies"][0]["series"][0]["stacks"]
    assert (stack["verdict"], stack["read"]) == ("ready with notes", True)
    [note] = stack["notes"]
    # z = 0, 3, 9, 12, 15, 18: from the head down, 6 − 3 mm are missing after slice 4.
    assert (note["code"], note["values"]) == ("gap", {"slice": 4, "mm": 3.0})
    assert note["text"] == "gap after slice 4: 3 mm missing"


def test_strict_inspection_of_a_clean_study_is_content(desk):
    write_body(desk.input)
    assert desk.type("inspect", desk.input, "--strict").exit_code == 0


def test_strict_reads_a_stack_that_is_merely_overlapping(desk):
    write_body(desk.input, thickness_mm=5.0)
    inspected = desk.type("inspect", desk.input, "--strict")
    assert inspected.exit_code == 0
    assert "- overlapping slices: 5 mm thick every 3 mm" in inspected.stdout


@pytest.mark.parametrize("with_clean", [False, True], ids=["nothing is left", "part is left"])
def test_strict_leaves_out_what_the_gate_cautions_of_and_says_so(desk, with_clean):
    write_body(desk.input / "1", count=6, gap_at=2)
    if with_clean:
        write_body(desk.input / "2", study="clean")
    status = 4 if with_clean else 3
    inspected = desk.type("inspect", desk.input, "--strict")
    assert "axial, 6 slices every 3 mm ready with notes, not read (--strict)" in " ".join(inspected.stdout.split())
    assert "! gap after slice 4: 3 mm missing" in inspected.stdout
    assert f"--strict leaves out 1 of {'2 stacks' if with_clean else '1 stack'}" in inspected.stderr
    assert inspected.exit_code == status
    result = desk.study("--strict")
    assert ("none of 6 slices read: --strict" in result.stdout, "12 of 12 slices read" in result.stdout) == (
        True,
        with_clean,
    )
    assert result.exit_code == status
    reports = [json.loads(path.read_text()) for path in (desk.root / "reports").glob("*/*/report.json")]
    [refused] = [report["series"][0] for report in reports if report["status"] == "nothing"]
    assert {fate["not_read_because"] for fate in refused["slices"]} == {"--strict: gap after slice 4: 3 mm missing"}


@pytest.mark.parametrize("command", ["inspect", "plan"])
def test_a_series_that_is_not_there_is_a_mistake_before_anything_is_read(desk, command):
    write_body(desk.input, count=1)
    result = desk.type(command, desk.input, "--series", "1.2.3")
    assert result.exit_code == 2
    assert "There is no series 1.2.3" in result.stderr


def test_plan_tells_slices_chunks_memory_and_time(desk):
    write_body(desk.input)
    told = desk.type("plan", desk.input, "--model", desk.checkpoint, "--precision", "fp32").stdout
    assert "CT series 1, mediastinum: 12 slices in 12 pictures of 64², prompt chest_ct" in told
    assert "4 chunks of 4 pictures, overlap 1" in told
    assert "GiB" in told
    assert "an estimate" in told


def test_the_plan_and_the_run_agree(desk):
    write_body(desk.input)
    words = ("--model", desk.checkpoint, "--chunk", "5", "--window", "lung", "--window", "40/300", "--json")
    planned = json.loads(desk.type("plan", desk.input, *words).stdout)["studies"][0]
    read = json.loads(desk.study("--chunk", "5", "--window", "lung", "--window", "40/300", "--json").stdout)
    assert planned["key"] == read["studies"][0]["key"]
    assert planned["chunk_count"] == read["studies"][0]["chunks_read_now"]


def test_the_module_runs_as_the_command_does():
    told = subprocess.run([sys.executable, "-m", "medvl", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("medvl ")


@pytest.mark.parametrize(
    ("text", "count"), [("12GiB", 12 * 2**30), ("500MB", 500_000_000), ("1.5 g", 1_500_000_000), ("4096", 4096)]
)
def test_amounts_of_memory_are_read(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1GiB", "12 parsecs", "GiB"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(SettingsError, match="is not an amount of memory"):
        parse_bytes(text)


# --- progress ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("terminal", "kind"), [(True, TerminalWatcher), (False, PlainWatcher)])
def test_bars_are_for_terminals_and_lines_for_files(terminal, kind):
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    watcher = make_watcher(Console(file=screen, force_terminal=terminal, width=200), quiet=False)
    watcher.scanned(3)
    watcher.study_begins("abc", 12, 4, 1)
    watcher.chunk_ends(3, 0)
    watcher.model_loads("[bold]demo", 0.5)
    watcher.model_loads("[bold]demo", 1.0)
    watcher.chunk_ends(3, 2)
    watcher.note("A sentence [with brackets]")
    watcher.study_ends("abc")
    watcher.close()
    assert isinstance(watcher, kind)
    assert "Study abc: 12 slices in 4 chunks, 1 chunk known from an earlier run" in screen.getvalue()
    assert "A sentence [with brackets]" in screen.getvalue()


def test_chunks_of_an_earlier_run_do_not_count_as_speed(monkeypatch):
    from medvl import progress

    clock = iter([0.0, 100.0, 110.0, 120.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    rate = progress._Rate(known=1)  # begins at 0
    rate.add(50, 1)  # known: the clock starts anew, at 100
    rate.add(20, 2)
    assert rate.text == "2.0 slices/s, 3 findings so far"  # 20 slices until 110
