"""A short run of the fuzzer; `make fuzz` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medvl.errors import MedvlError
from tests.dicom.confined import read_all
from tests.dicom.fuzz import broken

REGRESSIONS = sorted(Path(__file__).with_name("regressions").glob("*/*"))


def test_two_thousand_broken_files_end_as_pictures_or_reasons(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tests.dicom.fuzz",
        "2000",
        "--batch",
        "1000",
        "--seed",
        "0",
        "--keep",
        str(tmp_path),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "2000 files broken and read, seeds 0 to 1: 0 batches failed" in ended.stdout


def test_the_fuzzer_breaks_what_it_is_given():
    whole = bytes(200) + b"\x10\x00\x10\x00PN\x04\x00Doe^"
    assert broken(whole, [("cut", 0.5, 0)]) == whole[:106]  # of 212 bytes
    assert broken(whole, [("flip", 0.0, 7)]) == b"\x07" + whole[1:]
    assert broken(whole, [("length", 0.0, 14)]) == whole[:206] + b"\xff\xff" + whole[208:]


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.parent.name)
def test_what_once_broke_a_scan_does_no_more(path):
    try:
        read_all(path.parent)
    except MedvlError as error:
        assert error.found
