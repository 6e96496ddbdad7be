"""Headers that are remembered must be those in the files, whatever happened to either in between."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import zipfile
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvl.dicom import attempt, shelves
from medvl.dicom.coding import decode_instances, encode_instances
from medvl.dicom.instance import Instance, read_instance
from medvl.dicom.scan import scan
from medvl.dicom.shelves import HeaderCache
from medvl.records import Frame, Source, Window
from tests.builders import write_series
from tests.dicom.scanning import reasons


@pytest.fixture(autouse=True)
def files_settle_at_once(monkeypatch):
    monkeypatch.setattr(shelves, "SETTLED_NS", -(10**12))


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the files whose headers are really read, in this process."""
    names: list[str] = []
    read = attempt.read_instance

    def spy(source: Source) -> Instance:
        names.append(source.name)
        return read(source)

    monkeypatch.setattr(attempt, "read_instance", spy)
    return names


def shelf_files(cache: HeaderCache) -> list[Path]:
    return sorted(cache.folder.glob("*.headers"))


# --- what is remembered -----------------------------------------------------------------------------------------------


def test_a_second_scan_opens_no_file_and_finds_the_same(tmp_path, opened):
    write_series(tmp_path / "study", count=4)
    (tmp_path / "study" / "notes.txt").write_text("no image")
    cache = HeaderCache(tmp_path / "home")
    first = scan([tmp_path / "study"], cache=cache)
    assert len(opened) == 5
    assert scan([tmp_path / "study"], cache=cache) == first
    assert len(opened) == 5


def test_only_what_changed_is_read_again(tmp_path, opened):
    paths = write_series(tmp_path / "study", count=4)
    cache = HeaderCache(tmp_path / "home")
    scan([tmp_path / "study"], cache=cache)
    os.utime(paths[2], ns=(1, 1))
    opened.clear()
    scan([tmp_path / "study"], cache=cache)
    assert opened == [paths[2].name]


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_again(tmp_path):
    (path,) = write_series(tmp_path / "study", count=1, patient_name="Doe^Jane")
    cache = HeaderCache(tmp_path / "home")
    scan([path], cache=cache)
    before = path.stat()
    content = path.read_bytes().replace(b"Doe^Jane", b"Roe^Jane")
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert scan([path], cache=cache).studies[0].patient.name == "Roe^Jane"


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(shelves, "SETTLED_NS", 10**12)
    write_series(tmp_path / "study", count=2)
    cache = HeaderCache(tmp_path / "home")
    for _ in range(2):
        scan([tmp_path / "study"], cache=cache)
    assert len(opened) == 4
    assert shelf_files(cache) == []


def test_one_file_may_be_named_in_several_ways(tmp_path, opened, monkeypatch):
    paths = write_series(tmp_path / "study", count=3)
    cache = HeaderCache(tmp_path / "home")
    scan([tmp_path / "study"], cache=cache)
    monkeypatch.chdir(tmp_path / "study")
    opened.clear()
    found = scan([Path(paths[1].name)], cache=cache)
    assert opened == []
    assert found.studies[0].series[0].frames[0].source == Source(Path(paths[1].name), paths[1].name)
    scan([tmp_path / "study"], cache=cache)
    assert opened == []  # the others were not forgotten meanwhile


def test_members_of_an_archive_are_remembered_with_it(tmp_path, opened):
    paths = write_series(tmp_path / "study", count=3)
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        for path in paths[:2]:
            writer.write(path, path.name)
    cache = HeaderCache(tmp_path / "home")
    first = scan([archive], cache=cache)
    assert len(opened) == 2
    assert scan([archive], cache=cache) == first
    assert len(opened) == 2
    with zipfile.ZipFile(archive, "a") as writer:
        writer.write(paths[2], paths[2].name)
    assert len(scan([archive], cache=cache).studies[0].series[0].frames) == 3


def test_a_file_that_could_not_be_opened_is_tried_again(tmp_path, monkeypatch):
    (path,) = write_series(tmp_path / "study", count=1)
    cache = HeaderCache(tmp_path / "home")

    def refuse(_source):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("medvl.dicom.instance.open_source", refuse)
        assert reasons(scan([path], cache=cache)) == ["cannot be read (Permission denied)"]
    assert len(scan([path], cache=cache).studies) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_a_scan_with_a_cache_finds_what_a_fresh_one_finds(tmp_path_factory, rng: random.Random):
    base = tmp_path_factory.mktemp("history")
    cache, folder = HeaderCache(base / "home"), base / "archive"
    for step in range(5):
        name = rng.choice("abc")
        change = rng.choice(["write", "touch", "rename", "replace", "remove", "cut", "none"])
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if change == "write" or not files:
            write_series(folder / name, count=rng.randrange(1, 4), study=f"{step}", patient_name=f"Doe^{step}")
        elif change == "remove":
            shutil.rmtree(files[0].parent)
        elif change != "none":
            alter(change, rng.choice(files), rng.choice(files))
        kept, fresh = scan([folder], cache=cache), scan([folder])
        assert kept == fresh and repr(kept) == repr(fresh)


def alter(change: str, path: Path, other: Path) -> None:
    if change == "touch":
        os.utime(path)
    elif change == "rename":
        path.rename(path.with_name("renamed"))
    elif change == "replace":
        content = other.read_bytes()
        path.unlink()
        path.write_bytes(content)
    else:
        path.write_bytes(path.read_bytes()[:-10])


def test_nothing_of_a_removed_study_stays(tmp_path):
    folder = tmp_path / "inbox"
    old = write_series(folder, count=2, study="old", series="old", patient_name="Gone^Patient")
    for path in old:
        path.rename(path.with_name(f"old{path.name}"))
    write_series(folder, count=2, study="new", patient_name="New^Patient")
    cache = HeaderCache(tmp_path / "home")
    scan([folder], cache=cache)
    (file,) = shelf_files(cache)
    assert b"Gone^Patient" in file.read_bytes()
    for path in folder.glob("old*"):
        path.unlink()
    write_series(folder, count=1, study="new", patient_name="New^Patient")  # any change
    scan([folder], cache=cache)
    assert b"Gone^Patient" not in file.read_bytes() and b"New^Patient" in file.read_bytes()


# --- the files on the shelf -------------------------------------------------------------------------------------------


def test_what_is_kept_is_for_its_owner_only(tmp_path):
    write_series(tmp_path / "study", count=1)
    cache = HeaderCache(tmp_path / "home" / "headers")
    scan([tmp_path / "study"], cache=cache)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in shelf_files(cache)] == [0o600]
    assert cache.size_bytes() == shelf_files(cache)[0].stat().st_size


def flip(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]


BREAKAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "only its head": lambda content: content.partition(b"\n")[0],
    "no text": lambda content: bytes(range(256)),
    "another version": lambda content: b"0" * 32 + content[32:],
    "longer": lambda content: content + b" ",
    **{f"a flipped bit {seed}": lambda content, seed=seed: flip(content, random.Random(seed)) for seed in range(12)},
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_damaged_shelf_is_read_as_empty_and_made_anew(tmp_path, opened, name):
    write_series(tmp_path / "study", count=3)
    cache = HeaderCache(tmp_path / "home")
    first = scan([tmp_path / "study"], cache=cache)
    (file,) = shelf_files(cache)
    whole = file.read_bytes()
    file.write_bytes(BREAKAGES[name](whole))
    opened.clear()
    assert scan([tmp_path / "study"], cache=cache) == first
    assert len(opened) == 3
    assert file.read_bytes() == whole


def write_shelf(file: Path, content: object) -> None:
    """Write a shelf that is whole as far as its digest can tell."""
    text = json.dumps(content).encode()
    file.write_bytes(f"{shelves.format_digest()} {shelves._digest(text)}\n".encode() + text)


@pytest.mark.parametrize(
    "content",
    [[], {}, 3, [[], [], [], []], [["a"], [], [], []], [["a"], [[1]] * 4, [], [[0]]], [[], [], [], [[1]] * 9]],
    ids=json.dumps,
)
def test_a_shelf_that_says_something_else_is_read_as_empty(tmp_path, opened, content):
    write_series(tmp_path / "study", count=1)
    cache = HeaderCache(tmp_path / "home")
    first = scan([tmp_path / "study"], cache=cache)
    (file,) = shelf_files(cache)
    write_shelf(file, content)
    opened.clear()
    assert scan([tmp_path / "study"], cache=cache) == first
    assert len(opened) == 1


@pytest.mark.parametrize("table", range(9))
@pytest.mark.parametrize("change", ["a column less", "a row more", "no rows"])
def test_tables_that_say_something_else_are_read_from_their_files(tmp_path, table, change):
    write_series(tmp_path / "study", count=3)
    cache = HeaderCache(tmp_path / "home")
    first = scan([tmp_path / "study"], cache=cache)
    (file,) = shelf_files(cache)
    names, stamps, reasons, tables = json.loads(file.read_bytes().partition(b"\n")[2])
    rows, *columns = tables[table]
    tables[table] = {
        "a column less": [rows, *columns[1:]],
        "a row more": [rows + 1, *columns],
        "no rows": [0, *([] for _ in columns)],
    }[change]
    write_shelf(file, [names, stamps, reasons, tables])
    assert scan([tmp_path / "study"], cache=cache) == first


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path):
    write_series(tmp_path / "study", count=2)
    (tmp_path / "home").write_text("in the way")
    cache = HeaderCache(tmp_path / "home" / "headers")
    assert scan([tmp_path / "study"], cache=cache) == scan([tmp_path / "study"])
    assert cache.size_bytes() == 0


def test_two_scans_at_once_leave_a_whole_shelf(tmp_path, opened):
    write_series(tmp_path / "study", count=3)
    cache = HeaderCache(tmp_path / "home")
    nested: list[object] = []

    def scan_meanwhile(count: int) -> None:
        if count == 2:
            nested.append(scan([tmp_path / "study"], cache=HeaderCache(tmp_path / "home")))

    assert scan([tmp_path / "study"], cache=cache, progress=scan_meanwhile) == nested[0]
    opened.clear()
    assert scan([tmp_path / "study"], cache=cache) == nested[0]
    assert opened == []


def test_an_interrupted_scan_keeps_what_it_has_read(tmp_path, opened):
    write_series(tmp_path / "study", count=5)
    cache = HeaderCache(tmp_path / "home")

    def interrupt(count: int) -> None:
        if count == 3:
            raise KeyboardInterrupt("by Ctrl-C")

    with pytest.raises(KeyboardInterrupt, match="by Ctrl-C"):
        scan([tmp_path / "study"], cache=cache, progress=interrupt)
    opened.clear()
    scan([tmp_path / "study"], cache=cache)
    assert len(opened) == 2


def test_the_oldest_shelves_go_first(tmp_path, monkeypatch):
    cache = HeaderCache(tmp_path / "home")
    for age, name in enumerate("abc"):
        write_series(tmp_path / name, count=1, study=name)
        before = set(shelf_files(cache))
        scan([tmp_path / name], cache=cache)
        (file,) = set(shelf_files(cache)) - before
        os.utime(file, (2e9 - age * 3600, 2e9 - age * 3600))
        size = file.stat().st_size
    monkeypatch.setattr(shelves, "MAX_BYTES", int(2.5 * size))
    cache.tidy()
    assert [file.stat().st_mtime for file in sorted(shelf_files(cache), key=os.path.getmtime)] == [2e9 - 3600, 2e9]


def test_shelves_that_nobody_uses_go(tmp_path):
    write_series(tmp_path / "study", count=1)
    cache = HeaderCache(tmp_path / "home")
    scan([tmp_path / "study"], cache=cache)
    os.utime(shelf_files(cache)[0], (1e9, 1e9))  # 2001
    cache.tidy()
    assert shelf_files(cache) == []


def test_a_shelf_in_use_stays_young(tmp_path):
    write_series(tmp_path / "study", count=1)
    cache = HeaderCache(tmp_path / "home")
    scan([tmp_path / "study"], cache=cache)
    os.utime(shelf_files(cache)[0], (1e9, 1e9))
    scan([tmp_path / "study"], cache=cache)
    assert shelf_files(cache)[0].stat().st_mtime > 1.7e9


# --- the rows ---------------------------------------------------------------------------------------------------------


NOWHERE = Source(Path("a"), "a")
SIMPLE = {
    float: st.floats(allow_nan=False, allow_infinity=False),
    Source: st.just(NOWHERE),
    **{type_: st.from_type(type_) for type_ in (str, int, bool, bytes, type(None))},
}


def values_of(hint) -> st.SearchStrategy:
    """Make values of a type; lists of frames stay short."""
    if hint in SIMPLE:
        return SIMPLE[hint]
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.deferred(lambda: st.builds(hint, **{each.name: values_of(hints[each.name]) for each in fields(hint)}))
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return st.sampled_from(parts)
    if get_origin(hint) is not tuple:
        return st.one_of(*map(values_of, parts))
    if parts[-1] is Ellipsis:
        return st.lists(values_of(parts[0]), max_size=2).map(tuple)
    return st.tuples(*map(values_of, parts))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(values_of(Instance), max_size=3))
def test_every_instance_survives_being_told(instances):
    told = decode_instances(json.loads(json.dumps(encode_instances(instances))))
    back = [told.take(index, NOWHERE) for index in range(len(instances))]
    assert back == instances and repr(back) == repr(instances)


def test_facts_in_common_are_told_once(tmp_path):
    (path,) = write_series(tmp_path, count=1)
    instance = read_instance(Source(path, path.name))
    (frame,) = instance.frames
    centers = [40.0, 40.0, -0.0, 0.0]  # the last two are equal, but not the same
    frames = [replace(frame, windows=(Window(center, 80.0),)) for center in centers]
    tables = encode_instances([replace(instance, frames=tuple(frames))])
    assert tables[6][:2] == [3, [40.0, -0.0, 0.0]]
    assert tables[1].count([[0], [0], [1], [2]]) == 1  # which window each frame has


def test_a_column_of_one_value_stands_for_all(tmp_path):
    paths = write_series(tmp_path, count=3, rows=16)
    count, *columns = encode_instances([read_instance(Source(path, path.name)) for path in paths])[1]
    by_name = dict(zip([each.name for each in fields(Frame)][1:], columns, strict=True))
    assert (count, by_name["rows"], by_name["instance_number"]) == (3, [16], [1, 2, 3])
