"""Many processes, one, or none of our own: the same headers in the same order."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from medvl.dicom import attempt, bulk
from medvl.dicom.scan import scan
from medvl.dicom.shelves import HeaderCache
from tests.builders import make_enhanced_ct, write_dataset, write_series
from tests.dicom.scanning import SMALL

METHODS = [method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()]


@pytest.fixture
def archive(tmp_path) -> Path:
    """Everything that a scan meets: series, an enhanced object, a zip, a link, and files that are no images."""
    folder = tmp_path / "archive"
    for name in "abc":
        write_series(folder / name, count=7, study=name, patient_id=name)
    (folder / "a" / "notes.txt").write_text("no image")
    (folder / "b" / "cut").write_bytes(next((folder / "b").iterdir()).read_bytes()[:300])
    positions = [(0, 0, 5.0), (0, 0, 3.0), (0, 0, 1.0)]
    write_dataset(folder / "d", make_enhanced_ct(SMALL[None].repeat(3, 0), positions=positions))
    with zipfile.ZipFile(folder / "e.zip", "w") as writer:
        for path in write_series(tmp_path / "zipped", count=7, study="e"):
            writer.write(path, path.name)
    (folder / "f").symlink_to("/dev/zero")
    return folder


@pytest.fixture
def helped_at_once(monkeypatch):
    """Small batches, and helpers from the first file on, so that a few files show what a million would."""
    monkeypatch.setattr(bulk, "_BATCH", 3)
    monkeypatch.setattr(bulk, "ALONE_BEFORE_FORK", 0)
    monkeypatch.setattr(bulk, "ALONE_BEFORE_SPAWN", 0)


def start_by(monkeypatch, method: str) -> None:
    monkeypatch.setattr(bulk, "_start_method", lambda: method)


@pytest.mark.parametrize("method", METHODS)
def test_helpers_find_what_one_process_finds(archive, monkeypatch, helped_at_once, method):
    alone = scan([archive], processes=1)
    start_by(monkeypatch, method)
    seen: list[int] = []
    helped = scan([archive], processes=2, progress=seen.append)
    assert helped == alone and repr(helped) == repr(alone)
    assert seen == list(range(1, alone.file_count + 1))


def test_helpers_fill_the_cache_as_one_process_does(archive, tmp_path, monkeypatch, helped_at_once):
    monkeypatch.setattr("medvl.dicom.shelves.SETTLED_NS", -(10**12))
    start_by(monkeypatch, METHODS[0])
    caches = [HeaderCache(tmp_path / name) for name in ("alone", "helped")]
    for processes, cache in enumerate(caches, start=1):
        scan([archive], cache=cache, processes=processes)
    alone, helped = ({file.name: file.read_bytes() for file in cache.folder.iterdir()} for cache in caches)
    assert len(alone) == 5  # the archive's top, three folders and the zip
    assert helped == alone


def test_a_few_files_are_read_without_helpers(archive, monkeypatch):
    monkeypatch.setattr(bulk, "ProcessPoolExecutor", None)  # would fail if it were called
    assert scan([archive]).file_count == 32


def test_a_helper_that_dies_costs_nothing(archive, monkeypatch, helped_at_once):
    start_by(monkeypatch, "fork")
    here, read = os.getpid(), bulk.try_instance

    def die_elsewhere(source):
        if os.getpid() != here:
            os._exit(1)
        return read(source)

    alone = scan([archive], processes=1)
    monkeypatch.setattr(bulk, "try_instance", die_elsewhere)
    assert scan([archive], processes=2) == alone


def test_no_helpers_where_the_machine_has_none_to_give(archive, monkeypatch, helped_at_once):
    def refuse(*_):
        raise OSError(38, "Function not implemented")  # semaphores, in some containers

    alone = scan([archive], processes=1)
    monkeypatch.setattr(bulk, "ProcessPoolExecutor", refuse)
    assert scan([archive], processes=2) == alone


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bug_names_the_file_it_met(archive, monkeypatch, helped_at_once, processes):
    start_by(monkeypatch, "fork")

    def stumble(source):
        if source.name.startswith("c/"):
            raise ZeroDivisionError("a bug of ours")
        return read(source)

    read = attempt.read_instance
    monkeypatch.setattr(attempt, "read_instance", stumble)
    with pytest.raises(ZeroDivisionError, match="a bug of ours") as caught:
        scan([archive], processes=processes)
    assert caught.value.__notes__[0].startswith("while reading c/")


def test_an_interrupt_ends_the_helpers(archive, monkeypatch, helped_at_once):
    start_by(monkeypatch, "fork")

    def interrupt(count: int) -> None:
        if count == 5:
            raise KeyboardInterrupt("by Ctrl-C")

    with pytest.raises(KeyboardInterrupt, match="by Ctrl-C"):
        scan([archive], processes=2, progress=interrupt)
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(sys.platform != "linux", reason="sends signals to a group of processes")
def test_ctrl_c_at_a_terminal_says_nothing_but_its_own_name(archive):
    code = f"""
        import os, signal
        from pathlib import Path
        from medvl.dicom import bulk
        from medvl.dicom.scan import scan
        bulk._BATCH, bulk.ALONE_BEFORE_FORK = 3, 0
        def interrupt(count):
            if count == 5:
                os.killpg(0, signal.SIGINT)
        try:
            scan([Path({str(archive)!r})], processes=2, progress=interrupt)
        except KeyboardInterrupt:
            print("interrupted")
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code)]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True, start_new_session=True, timeout=60)
    assert (run.stdout, run.stderr) == ("interrupted\n", "")


def test_the_heap_is_as_before_after_a_scan(archive):
    import gc

    before = gc.get_threshold()
    scan([archive])
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, before)
