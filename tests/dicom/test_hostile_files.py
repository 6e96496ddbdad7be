"""Files that mean harm: read in a process with little memory and time, each ends as a reason in the listing."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from medvl.dicom.frames import FrameError, load_stored, pixel_digest
from medvl.dicom.scan import scan
from tests.builders import make_instance, write_dataset, write_series
from tests.dicom.scanning import SMALL, only_series, reasons

ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
UNDEFINED = b"\xff\xff\xff\xff"
LARGE = 1 << 26


def element(tag: str, vr: str, value: bytes, length: int | None = None) -> bytes:
    """Encode an explicit little endian element, with a length that may lie."""
    group, number = bytes.fromhex(tag[:4])[::-1], bytes.fromhex(tag[4:])[::-1]
    size = len(value) if length is None else length
    wide = vr in ("OB", "OW", "SQ", "UN", "UT")
    return group + number + vr.encode() + (b"\0\0" if wide else b"") + size.to_bytes(4 if wide else 2, "little") + value


def meta(syntax: str = ExplicitVRLittleEndian) -> bytes:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    inner = element("00020010", "UI", uid)
    return bytes(128) + b"DICM" + element("00020000", "UL", len(inner).to_bytes(4, "little")) + inner


def with_element(inserted: bytes) -> bytes:
    """A whole CT slice with an element inserted where it belongs to no order, before its modality."""
    dataset = make_instance(stored=SMALL)
    path = write_dataset(Path(os.environ["TMPDIR"]) / "slice", dataset)
    content = path.read_bytes()
    at = content.index(b"\x08\0\x60\0CS")
    return content[:at] + inserted + content[at:]


def image_claiming(syntax: str = ExplicitVRLittleEndian, **claims: int) -> bytes:
    """A whole CT slice of 32 × 32 whose header claims something else."""
    dataset = make_instance(stored=np.zeros((32, 32), np.int16))
    path = write_dataset(Path(os.environ["TMPDIR"]) / "slice", dataset, syntax)
    content = path.read_bytes()
    tags = {"Rows": b"(\0\x10\0US\2\0", "Columns": b"(\0\x11\0US\2\0", "NumberOfFrames": b""}
    for name, value in claims.items():
        if name == "NumberOfFrames":
            at = content.index(tags["Rows"])
            content = content[:at] + element("00280008", "IS", f"{value:<10}".encode()) + content[at:]
        else:
            content = re.sub(re.escape(tags[name]) + b"..", lambda _, name=name, value=value: tags[name]
                             + value.to_bytes(2, "little"), content, flags=re.DOTALL)  # fmt: skip
    return content


def deflated(start: bytes, zeros: int) -> bytes:
    """A deflated dataset that goes on with a great many zeros, a thousandth of their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    begin = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(LARGE)) + packer.flush(zlib.Z_FULL_FLUSH)  # behind which nothing refers back
    return meta(DeflatedExplicitVRLittleEndian) + begin + piece * (zeros // LARGE) + packer.flush()


def numbered(count: int) -> bytes:
    """Empty elements, no two of them equal."""
    return b"".join((9 + 2 * (i >> 16)).to_bytes(2, "little") + (i & 65535).to_bytes(2, "little") + b"CS\0\0"
                    for i in range(count))  # fmt: skip


def groups(content: bytes) -> bytes:
    return with_element(element("52009230", "SQ", content))


Outcome = dict[str, Any]
PIXELS = element("7fe00010", "OW", b"", 0xFFFFFFF0)
TOO_MANY = "too many elements before the pixels"
# Name → (content of the file, the reason that is listed, None where the slice is read all the same).
CONTENTS: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "65535 rows and columns": (lambda: image_claiming(Rows=65535, Columns=65535), "impossible size"),
    "65535 rows of the largest columns": (lambda: image_claiming(Rows=65535, Columns=2000), "truncated: .* 0 of 1"),
    "a compressed picture that claims 8 gigabytes": (
        lambda: image_claiming(JPEG2000Lossless, Rows=65535, Columns=2000),
        "file: its compressed pixels are|file: .*decode",
    ),
    "runs that claim 2 gigabytes": (lambda: image_claiming(RLELossless, Rows=65535, Columns=2000), "file: "),
    "a thousand million frames": (lambda: image_claiming(NumberOfFrames=10**9), "truncated: .* 1 of 1000000000 f"),
    "a thousand million compressed frames": (
        lambda: image_claiming(JPEG2000Lossless, NumberOfFrames=10**9),
        "claims 1000000000 frames",
    ),
    "frames of one pixel": (lambda: one_pixel_frames(10**6), "claims 1000000 frames"),
    "sequences nested without end": (
        lambda: with_element((element("00081111", "SQ", b"", 0xFFFFFFFF) + ITEM + UNDEFINED) * 100_000),
        "sequences nested too deeply",
    ),
    "too many items nobody asked for": (
        lambda: with_element(element("00081111", "SQ", b"", 0xFFFFFFFF) + (ITEM + bytes(4)) * 600_000),
        TOO_MANY,
    ),
    "too many items of frames": (lambda: groups((ITEM + bytes(4)) * 600_000), TOO_MANY),
    "too many elements of one frame": (lambda: groups(ITEM + UNDEFINED + numbered(1_200_000)), TOO_MANY),
    "too many elements": (lambda: meta() + numbered(1_200_000), TOO_MANY),
    "a name of ten megabytes": (lambda: with_element(element("00100010", "UT", b"A^B\\" * 2_500_000)), None),
    "a spacing of five million numbers": (lambda: with_element(element("00280030", "UT", b"1\\" * 5_000_000)), None),
    "a meta element of four gigabytes": (
        lambda: bytes(128) + b"DICM" + element("00020001", "OB", b"", 0xFFFFFFF0),
        "an element claims 4294967280 bytes",
    ),
    "a sequence element of four gigabytes": (
        lambda: with_element(
            element("00081111", "SQ", b"", 0xFFFFFFFF) + ITEM + UNDEFINED + element("00081115", "UT", b"", 0xFFFFFFF0)
        ),
        "an element claims 4294967280 bytes",
    ),
    "an element that ends behind the file": (lambda: with_element(element("00091001", "UT", b"x", 10_000)), "no pixel"),
    "a sequence without its delimiter": (
        lambda: with_element(element("00081111", "SQ", b"", 0xFFFFFFFF)),
        "an element claims",
    ),
    "bytes without their delimiter": (lambda: with_element(element("00091001", "OB", b"", 0xFFFFFFFF)), "no pixel"),
    "an endless deflate": (lambda: deflated(PIXELS, 3 << 30), "deflated dataset larger than 2 GiB"),
    "an endless deflate of elements": (lambda: deflated(b"", 1 << 30), TOO_MANY),
    "a deflated element of a gigabyte": (
        lambda: deflated(element("00091001", "UT", b"", 0xFFFFFF00), 1 << 30),
        "no pixel data",
    ),
    "a character set that is none": (lambda: with_element(element("00080005", "CS", b"ISO_IR 999\\x\x1b$")), None),
}


# What takes longest until medvl gives up, seconds each.
LONG = {name for name in CONTENTS if name.startswith("too many")} | {"an endless deflate of elements"}


def one_pixel_frames(count: int) -> bytes:
    dataset = make_instance(stored=np.zeros((1, 1), np.uint8))
    dataset.NumberOfFrames, dataset.PixelData = count, bytes(count)
    return write_dataset(Path(os.environ["TMPDIR"]) / "slice", dataset).read_bytes()


@pytest.fixture(scope="module")
def read_confined(tmp_path_factory) -> Callable[[Iterable[str]], dict[str, Outcome]]:
    """Read hostile files in one process that has a gigabyte."""
    whole = tmp_path_factory.mktemp("whole")
    write_series(whole, count=1, rows=32, columns=32, transfer_syntax=JPEG2000Lossless)

    def read(names: Iterable[str]) -> dict[str, Outcome]:
        root, elsewhere = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("elsewhere")
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("TMPDIR", str(tmp_path_factory.mktemp("made")))
            for name in names:
                (root / name / "input").mkdir(parents=True)
                (root / name / "input" / "file").write_bytes(CONTENTS[name][0]())
        before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
        command = [sys.executable, "-m", "tests.dicom.confined", str(root), str(whole)]
        environment = {**os.environ, "TMPDIR": str(elsewhere)}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
        assert list(elsewhere.iterdir()) == []
        return {line["name"]: line for line in map(json.loads, ended.stdout.splitlines())}

    return read


@pytest.fixture(scope="module")
def outcomes(read_confined) -> dict[str, Outcome]:
    return read_confined(CONTENTS.keys() - LONG)


@pytest.mark.parametrize("name", [name for name in CONTENTS if name not in LONG])
def test_a_hostile_file_ends_as_a_reason(outcomes, name):
    check_outcome(outcomes[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LONG))
def test_a_hostile_file_that_takes_seconds_ends_as_a_reason(read_confined, name):
    check_outcome(read_confined([name])[name])


def check_outcome(outcome: Outcome) -> None:
    reason = CONTENTS[outcome["name"]][1]
    if reason is None:
        assert (outcome["frames"], outcome["reasons"]) == (1, [])
    else:
        assert outcome["reasons"], outcome
        assert re.match(reason, outcome["reasons"][0]), outcome


# --- archives ---------------------------------------------------------------------------------------------------------


def zip_with(path: Path, content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("1", content)
    return path


def test_a_zip_bomb_is_not_inflated(tmp_path):
    zip_with(tmp_path / "a.zip", bytes(LARGE + 1))
    (reason,) = reasons(scan([tmp_path]))
    assert re.fullmatch(r"claims to inflate from \d{5} to 67108865 bytes", reason)


def test_small_empty_pictures_in_a_zip_are_no_bomb(tmp_path):
    (path,) = write_series(tmp_path / "files", count=1, pixels=np.zeros((1024, 1024), np.int16))
    archive = zip_with(tmp_path / "a.zip", path.read_bytes())
    assert len(only_series(scan([archive])).frames) == 1


def test_members_that_share_their_bytes_are_not_inflated_again_and_again(tmp_path):
    path = zip_with(tmp_path / "a.zip", b"x" * 5000)
    content = path.read_bytes()
    start = content.index(b"PK\1\2")
    entry, end = content[start : content.index(b"PK\5\6")], content[content.index(b"PK\5\6") :]
    count = 100
    ends = end[:8] + count.to_bytes(2, "little") * 2 + (count * len(entry)).to_bytes(4, "little") + end[16:]
    # The same 23 bytes a hundred times over, more than the file would hold without its list of members.
    path.write_bytes(content[:start] + entry * count + ends)
    with zipfile.ZipFile(path) as archive:
        total = sum(member.compress_size for member in archive.infolist())
    listed = reasons(scan([path]))
    assert total < path.stat().st_size and set(listed) == {"not a DICOM file"}
    many = entry.replace((5000).to_bytes(4, "little"), (5000).to_bytes(4, "little"))
    large = many[:20] + (4000).to_bytes(4, "little") + many[24:]  # a compressed size that overlaps what follows
    path.write_bytes(content[:start] + large * count + ends)
    assert reasons(scan([path])) == ["zip archive whose members overlap"]


def test_compression_that_inflates_without_a_bound_is_not_read(tmp_path):
    zip_with(tmp_path / "a.zip", b"x" * 5000, zipfile.ZIP_BZIP2)
    assert reasons(scan([tmp_path])) == ["neither stored nor deflated in the zip archive"]


@pytest.mark.parametrize("is_large", [False, True], ids=["zip", "zip64"])
def test_a_list_of_members_that_takes_all_memory_is_not_read(tmp_path, is_large):
    size = 1 << 40 if is_large else 1 << 30
    large = b"PK\6\6" + (44).to_bytes(8, "little") + bytes(28) + size.to_bytes(8, "little") + bytes(8)
    locator = b"PK\6\7" + bytes(16)
    ends = b"PK\5\6" + bytes(8) + (0xFFFFFFFF if is_large else size).to_bytes(4, "little") + bytes(6)
    (tmp_path / "a.zip").write_bytes(bytes(100) + (large + locator if is_large else b"") + ends)
    assert reasons(scan([tmp_path])) == ["zip archive cannot be read (BadZipFile)"]


# --- what is no file, and files that change ---------------------------------------------------------------------------


def test_a_pipe_a_device_and_a_socket_that_are_named_themselves_do_not_hang_the_scan(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero")):
            assert reasons(scan([path])) == ["not an ordinary file"]


def test_a_link_that_the_user_names_is_followed(tmp_path):
    (path,) = write_series(tmp_path / "there", count=1)
    link = tmp_path / "here"
    link.symlink_to(path)
    assert len(only_series(scan([link])).frames) == 1


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, DeflatedExplicitVRLittleEndian]
)
def test_a_file_that_shrinks_after_the_scan_is_a_reason(tmp_path, syntax):
    stored = np.random.default_rng(0).integers(0, 2000, (64, 64)).astype(np.int16)
    (path,) = write_series(tmp_path, count=1, pixels=stored, transfer_syntax=syntax)
    frame = only_series(scan([tmp_path])).frames[0]
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2)
    for read in (load_stored, pixel_digest):
        with pytest.raises(FrameError) as raised:
            read(frame)
        assert raised.value.reason
