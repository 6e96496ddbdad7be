from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest
from filelock import FileLock

from medvl.errors import ModelError
from medvl.reader.kept import THREAD, KeptForm, kept_form, list_kept, remove_kept
from medvl.reader.weights import list_models, pull_model, remove_model

NAME = "Some/Tiny-VL"
EMPTY = (2).to_bytes(8, "little") + b"{}"  # a whole safetensors file without tensors
Usage = namedtuple("Usage", "total used free")


def settle() -> None:
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join()


def keep(form: KeptForm, content: bytes = EMPTY) -> str:
    told = form.keep(len(content), lambda path: path.write_bytes(content) and None)
    settle()
    return told


@pytest.fixture
def form(tmp_path: Path) -> KeptForm:
    return KeptForm(tmp_path / "store" / ".kept" / "Some--Tiny-VL@int8.safetensors", "key")


def test_it_is_written_whole_for_its_owner_and_said_how_to_delete_it(form: KeptForm) -> None:
    assert keep(form).endswith("are kept for the next start; `medvl models rm Some/Tiny-VL@int8` deletes them")
    assert form.path.read_bytes() == EMPTY
    assert form.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_kill_while_it_is_written_leaves_nothing_that_is_loaded(form: KeptForm) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from medvl.reader.kept import KeptForm\n"
        "def write(path):\n"
        "    path.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "KeptForm(Path(sys.argv[1]), 'key').keep(8, write)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(form.path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (form.path.exists(), form.tensors(), list_kept(form.path.parents[1])) == (False, (), ())
    keep(form)
    assert sorted(path.suffix for path in form.path.parent.iterdir()) == [".lock", ".safetensors"]


def test_too_little_room_is_told_with_both_figures(form: KeptForm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0, 0, 11_900_000_000))
    told = form.keep(10_000_000_000, lambda path: path.write_bytes(EMPTY) and None)
    assert "not kept for the next start: 12.0 GB are needed in" in told
    assert told.endswith("11.9 GB are free")
    assert not form.path.exists()


def test_just_enough_room_is_enough(form: KeptForm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0, 0, 12))
    assert "are kept" in keep(form, EMPTY)  # 10 bytes
    assert form.path.exists()


def test_a_disk_that_fills_up_costs_nothing_but_the_kept_form(form: KeptForm) -> None:
    def fill(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    assert form.keep(8, fill).endswith("No space left on device")
    assert [path.suffix for path in form.path.parent.iterdir()] == [".lock"]


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    form = KeptForm(tmp_path / "file" / ".kept" / "x@int8.safetensors", "key")
    assert "not kept for the next start: Not a directory" in form.keep(8, lambda _path: None)


def test_another_process_that_writes_the_same_is_left_alone(form: KeptForm) -> None:
    form.path.parent.mkdir(parents=True)
    with FileLock(form.path.with_suffix(".lock")):
        assert keep(form) == ""
    assert not form.path.exists()


def test_it_is_good_for_the_weights_it_was_made_from_alone(tiny_copy: Path, tmp_path: Path) -> None:
    store, weights = tmp_path / "store", tiny_copy / "model.safetensors"
    first = kept_form(store, NAME, tiny_copy, "int8")
    assert kept_form(store, NAME, tiny_copy, "int8") == first
    content, written = weights.read_bytes(), weights.stat().st_mtime_ns
    weights.write_bytes(content)
    os.utime(weights, ns=(written, written + 1))  # the same size and samples, written at another time
    assert kept_form(store, NAME, tiny_copy, "int8").key != first.key


def test_a_file_made_from_other_weights_holds_nothing(form: KeptForm) -> None:
    header = b'{"__metadata__":{"made_from":"other"},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}'
    keep(form, len(header).to_bytes(8, "little") + header + b"\0")
    assert form.tensors() == ()
    assert [tensor.name for tensor in KeptForm(form.path, "other").tensors()] == ["a"]


def test_kept_forms_are_listed_and_removed_by_name(form: KeptForm) -> None:
    store = form.path.parents[1]
    keep(form)
    assert list_kept(store) == (("Some/Tiny-VL@int8", 10),)
    (listed,) = list_models(store)
    assert (listed.location.name, listed.location.origin, listed.size_bytes) == ("Some/Tiny-VL@int8", "kept", 10)
    assert remove_kept(store, "Some/Tiny") == 0
    assert remove_model("Some/Tiny-VL@int8", store) == 10
    assert list(form.path.parent.iterdir()) == []
    with pytest.raises(ModelError, match="Some/Tiny-VL@int8 is not on this machine"):
        remove_model("Some/Tiny-VL@int8", store)


def test_a_removed_model_takes_its_kept_form_along(form: KeptForm, tiny_folder: Path) -> None:
    store = form.path.parents[1]
    size = sum(path.stat().st_size for path in pull_model(NAME, store, tiny_folder).folder.iterdir())
    keep(form)
    assert remove_model(NAME, store) == size + 10
    assert list_models(store) == ()
