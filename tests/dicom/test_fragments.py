from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.filereader import dcmread
from pydicom.uid import JPEG2000Lossless, RLELossless

from medvl.dicom.fragments import TruncatedError, find_fragments, read_frame
from medvl.dicom.frames import FrameError, load_stored, pixel_digest
from medvl.dicom.instance import read_instance
from medvl.records import Source
from tests.builders import add_frames, make_instance, write_dataset

END = b"\xff\xd9"
DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


def item(content: bytes, claimed: int | None = None) -> bytes:
    return b"\xfe\xff\x00\xe0" + (len(content) if claimed is None else claimed).to_bytes(4, "little") + content


def frame(content: bytes, index: int, count: int, offset: int = 0) -> bytes:
    return read_frame(io.BytesIO(content), offset, len(content), index, count)


@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("per_frame", [1, 2])
def test_frames_are_found_with_and_without_an_offset_table(has_table, per_frame):
    frames = [bytes([number]) * 38 + END for number in range(3)]
    content = b"before" + encapsulate(frames, fragments_per_frame=per_frame, has_bot=has_table) + DELIMITER
    assert [frame(content, index, 3, offset=6) for index in range(3)] == frames


def test_all_fragments_of_a_single_frame_belong_to_it():
    assert frame(item(b"") + item(b"ab") + item(b"cd") + DELIMITER, 0, 1) == b"abcd"


def test_a_delimiter_inside_a_fragment_ends_nothing():
    content = item(b"") + item(b"ab" + DELIMITER) + DELIMITER
    assert frame(content, 0, 1) == b"ab" + DELIMITER


def test_a_fragment_cut_off_by_the_end_of_the_file_is_told_with_its_bytes():
    content = item(b"") + item(b"abcd") + item(b"efgh")[:-1]
    assert frame(content, 0, 2) == b"abcd"
    with pytest.raises(TruncatedError, match="3 of 4 bytes"):
        frame(content, 1, 2)


def test_a_fragment_that_claims_gigabytes_allocates_none():
    _, (fragment,) = find_fragments(io.BytesIO(item(b"") + item(b"ab", claimed=0xFFFFFFF0)), 0, 18)
    assert (fragment.claimed_bytes, fragment.there_bytes) == (0xFFFFFFF0, 2)


@pytest.mark.parametrize(("content", "reason"), [(b"no item at all", "no fragments"), (item(b""), "0 fragments for 2")])
def test_pixels_without_their_frame_are_an_error(content, reason):
    with pytest.raises(ValueError, match=reason):
        frame(content, 1, 2)


def written(folder: Path, syntax: str) -> Path:
    stored = np.random.default_rng(0).integers(0, 4096, (2, 40, 64)).astype(np.uint16)
    return write_dataset(folder / "two", add_frames(make_instance(stored=stored[0]), stored), syntax)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_a_compressed_last_frame_that_is_cut_off_says_so_and_the_first_is_read(tmp_path, syntax):
    path = written(tmp_path, syntax)
    whole = load_stored(read_instance(Source(path, "two")).frames[0])
    path.write_bytes(path.read_bytes()[:-100])
    first, second = read_instance(Source(path, "two")).frames
    assert (load_stored(first) == whole).all()
    for read in (load_stored, pixel_digest):
        with pytest.raises(
            FrameError, match=r"two, frame 2: its pixels end after \d+ bytes\. The compressed frame takes"
        ):
            read(second)


def test_compressed_pixels_of_another_size_are_named_with_both_sizes(tmp_path):
    path = written(tmp_path, JPEG2000Lossless)
    dataset = dcmread(path)
    dataset.Rows, dataset.Columns = 64, 40
    dataset.save_as(path)
    found = (
        r"two, frame 1: its compressed pixels are 40 × 64 of 1 samples\. The header says 64 × 40 pixels of 1 samples"
    )
    with pytest.raises(FrameError, match=found):
        load_stored(read_instance(Source(path, "two")).frames[0])
