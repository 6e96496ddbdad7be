import errno
import os
import stat

import pytest

from medvl.errors import OutputError
from medvl.report.schema import read_document
from medvl.report.write import write_study
from tests.report.examples import a_report, a_report_without_findings, pictures


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_study_is_written_for_its_owner_only(tmp_path):
    folder = tmp_path / "reports" / "p" / "s"
    write_study(folder, a_report(), pictures(a_report()))
    assert read_document(folder / "report.json") == a_report()
    folders = [tmp_path / "reports", folder.parent, folder, folder / "images"]
    assert [oct(mode(path)) for path in folders] == ["0o700"] * 4
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == [
        "finding-1.webp",
        "finding-2.webp",
        "finding-3.webp",
        "lung-sheet.webp",
        "report.json",
    ]
    assert {oct(mode(path)) for path in files} == {"0o600"}


def test_pictures_on_disk_may_be_left_out_and_forgotten_ones_go(tmp_path):
    write_study(tmp_path, a_report(), pictures(a_report()))
    write_study(tmp_path, a_report_without_findings(), {})
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["lung-sheet.webp"]


def test_a_picture_cannot_be_written_outside_its_folder(tmp_path):
    write_study(tmp_path / "s", a_report(), {"../../finding-1.webp": b"x"})
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert (tmp_path / "s" / "images" / "finding-1.webp").read_bytes() == b"x"


def test_a_full_disk_leaves_the_old_report_and_says_what_to_do(tmp_path, monkeypatch):
    write_study(tmp_path, a_report(), {})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OutputError, match=r"report\.json cannot be written: No space left on device\..*Free some space"
    ):
        write_study(tmp_path, a_report_without_findings(), {})
    assert read_document(tmp_path / "report.json") == a_report()
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_an_output_folder_that_is_a_file_is_said_so(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        write_study(tmp_path / "taken" / "s", a_report(), {})
