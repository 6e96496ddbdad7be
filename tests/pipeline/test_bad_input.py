import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless

from medvl.errors import InputError, ModelError, OutputError, SeriesError, SettingsError
from tests.pipeline.bench import Notes, chunk_calls, report_bright, write_body
from tests.reader_fakes import ScriptedReader


def test_a_folder_without_images_is_refused_with_what_is_in_it(bench):
    bench.input.mkdir()
    (bench.input / "letter.txt").write_text("Dear colleague")
    with pytest.raises(InputError, match=r"No image worth reading among 1 files \(not a DICOM file: 1\)"):
        bench.run(ScriptedReader())
    assert not bench.output.exists()


@pytest.mark.parametrize("series", [("auto",), ("all",)])
def test_an_empty_folder_is_no_success_whatever_series_was_asked_for(bench, series):
    bench.input.mkdir()
    with pytest.raises(InputError, match="No image worth reading among 0 files"):
        bench.run(ScriptedReader(), series=series)


def test_a_path_that_does_not_exist_is_named(bench):
    with pytest.raises(InputError, match=r"There is no .*input"):
        bench.run(ScriptedReader())


def test_a_file_with_a_broken_header_is_named_and_the_rest_is_read(bench):
    paths = write_body(bench.input)
    content = paths[5].read_bytes()
    paths[5].write_bytes(content[:200] + b"\xff" * 300 + content[500:])
    outcome = bench.run(ScriptedReader())
    assert outcome.studies[0].slices_read == 11
    assert [file for file, _ in outcome.unread] == [paths[5].name]
    assert outcome.exit_status == 4


def test_a_file_that_is_no_dicom_at_all_is_listed_and_changes_nothing(bench):
    write_body(bench.input)
    (bench.input / "viewer.exe").write_bytes(b"MZ")
    outcome = bench.run(ScriptedReader())
    assert outcome.unread == (("viewer.exe", "not a DICOM file"),)
    assert outcome.exit_status == 0


def test_a_compressed_slice_cut_short_is_unread_and_its_chunk_is_read_without_it(bench):
    paths = write_body(bench.input, transfer_syntax=JPEG2000Lossless)
    content = paths[5].read_bytes()
    middle = content.index(b"\xff\x93") + 20  # behind the code stream's start of data
    paths[5].write_bytes(content[:middle] + bytes(len(content) - middle))
    reader = ScriptedReader()
    outcome = bench.run(reader)
    [unread] = [fate for fate in bench.report().series[0].slices if not fate.read_in]
    assert unread.file == paths[5].name
    assert unread.not_read_because
    assert (outcome.studies[0].slices_read, outcome.exit_status) == (11, 4)
    assert chunk_calls(reader) == 4


def test_the_unread_slice_of_a_chunk_does_not_shift_the_others(bench):
    paths = write_body(bench.input, transfer_syntax=JPEG2000Lossless)
    content = paths[8].read_bytes()  # the lesion's highest slice, the fourth from the head
    middle = content.index(b"\xff\x93") + 20
    paths[8].write_bytes(content[:middle] + bytes(len(content) - middle))
    bench.run(ScriptedReader(report_bright))
    [finding] = bench.report().findings
    assert (finding.first_slice, finding.last_slice) == (5, 6)


def test_a_chunk_none_of_whose_slices_can_be_decoded_is_not_shown_to_the_model(bench):
    for path in write_body(bench.input, count=3, transfer_syntax=JPEG2000Lossless):
        content = path.read_bytes()
        middle = content.index(b"\xff\x93") + 20
        path.write_bytes(content[:middle] + bytes(len(content) - middle))
    reader = ScriptedReader()
    outcome = bench.run(reader)
    assert reader.calls == []
    assert (outcome.studies[0].slices_read, outcome.exit_status) == (0, 4)


def test_a_reply_that_cannot_be_understood_counts_its_slices_as_unread(bench):
    write_body(bench.input)
    replies = iter(["I am sorry", *['{"findings": []}'] * 3])
    outcome = bench.run(ScriptedReader(replies))
    reasons = [fate.not_read_because for fate in bench.report().series[0].slices]
    # The third slice is in the overlap and was read in the second chunk.
    assert reasons[:3] == ["the model's reply could not be understood"] * 2 + [""]
    assert (outcome.studies[0].slices_read, outcome.exit_status) == (10, 4)


def test_a_study_that_fails_does_not_stop_the_next(bench, monkeypatch):
    from medvl.pipeline import run as line

    def plan(study, wanted, prompts):
        if study.description == "broken":
            raise SeriesError("Its slices cannot be put in order")
        return plan_views(study, wanted, prompts)

    plan_views = line.plan_views
    monkeypatch.setattr(line, "plan_views", plan)
    write_body(bench.input / "1", study="one", study_description="broken", extra={"StudyDate": "20250101"})
    write_body(bench.input / "2", study="two")
    notes = Notes()
    outcome = bench.run(ScriptedReader(), watcher=notes)
    assert [study.status for study in outcome.studies] == ["failed", "complete"]
    assert outcome.exit_status == 4
    assert "cannot be put in order" in notes.lines[0]
    alone = bench.run(ScriptedReader(), paths=(bench.input / "1",))
    assert alone.exit_status == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": ("lnug",)}, '"lnug" is not a window. Known windows are .*lung'),
        ({"windows": ("40/0",)}, "No picture can be made with window"),
        ({"size_px": 500}, "A picture size of 500 was asked for. Sizes are multiples of 32"),
        ({"slab": "thick"}, 'A slab of "thick" was asked for'),
        ({"slab": "-3"}, 'A slab of "-3" was asked for'),
        ({"chunk": "0"}, 'A chunk of "0" was asked for'),
        ({"series": ("1.2.3",)}, r"There is no series 1.2.3. auto, all, or .* found here: "),
        ({"prompt": "knee"}, "There is no prompt 'knee' in language en. One of abdomen_ct"),
    ],
)
def test_settings_that_cannot_be_used_are_told_before_anything_is_read(bench, change, message):
    write_body(bench.input)
    reader = ScriptedReader()
    with pytest.raises(SettingsError, match=message):
        bench.run(reader, **change)
    assert reader.calls == []
    assert not bench.output.exists()


def test_a_prompt_with_an_unknown_placeholder_is_refused_by_its_name(bench):
    write_body(bench.input)
    prompt = bench.root / "mine.md"
    prompt.write_text("You see {{ slice_cuont }} slices.\n[[PICTURES]]\nAnswer.")
    with pytest.raises(SettingsError, match="slice_cuont"):
        bench.run(ScriptedReader(), prompt=str(prompt))


def test_a_missing_model_says_how_to_get_it_and_leaves_no_folder(bench, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(bench.root))
    write_body(bench.input)
    with pytest.raises(ModelError, match=r"models pull .* --from FOLDER.*--model demo"):
        bench.run(ScriptedReader(), model="Qwen/Qwen3-VL-32B-Instruct")
    assert not bench.output.exists()


def test_an_output_that_is_a_file_is_refused(bench):
    write_body(bench.input)
    bench.output.write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot be written: Not a directory.*choose another folder with --output"):
        bench.run(ScriptedReader())


def test_a_full_disk_ends_the_run_and_keeps_what_was_written(bench, monkeypatch):
    write_body(bench.input)
    flush = os.fsync

    def full(descriptor):
        if len(list(bench.output.glob("*/*/ledger/sha256-*"))) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"No space left on device.*Free some space"):
            bench.run(ScriptedReader())
    reader = ScriptedReader()
    bench.run(reader)
    assert chunk_calls(reader) == 2
    assert [path for path in bench.output.rglob(".*") if path.name != ".lock"] == []


def test_a_limit_on_the_size_of_files_is_an_output_error_too(bench):
    write_body(bench.input)
    code = """
import resource, signal, sys
from pathlib import Path
from medvl.errors import OutputError
from tests.pipeline.bench import Bench
from tests.reader_fakes import ScriptedReader
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    Bench(Path(sys.argv[1])).run(ScriptedReader())
except OutputError as error:
    sys.exit(error.exit_status)
"""
    bench.checkpoint.exists()
    ended = subprocess.run([sys.executable, "-c", code, str(bench.root)], check=False)
    assert ended.returncode == 6


def test_the_input_is_never_written_to(bench):
    paths = write_body(bench.input)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    bench.run(ScriptedReader())
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in bench.input.rglob("*")} == before


def test_values_that_are_no_hounsfield_units_are_not_given_a_ct_window(bench):
    stored = np.linspace(0, 4000, 64 * 64).astype(np.int16).reshape(64, 64)
    write_body(bench.input, count=3, modality="MR", body_part="BRAIN", pixels=stored, rescale_type=None)
    bench.run(ScriptedReader(), windows=("Brain", "rgb"))
    assert [view.name for view in bench.report().series[0].views] == ["percentile"]


def test_messages_name_files_by_their_place_in_the_input_only(bench):
    write_body(bench.input)
    bench.run(ScriptedReader())
    named = [fate.file for fate in bench.report().series[0].slices]
    assert not any(Path(name).is_absolute() or ".." in name for name in named)
