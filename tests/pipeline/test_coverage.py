"""Every frame found is read, or not read for a reason: in report.json, on the page, and in its bars."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless, SegmentationStorage

from medvl.report.document import ReportDocument
from tests.builders import add_frames, make_enhanced_ct, make_instance, uid, write_dataset
from tests.pipeline.bench import SIDE_PX, Bench, body, fates, report_bright, write_body
from tests.reader_fakes import ScriptedReader, StreamingReader

# Each writes files into a folder and returns how many frames of the study there are to account for.
Part = Callable[[Path, str, int], int]


def _slices(folder: Path, name: str, count: int) -> int:
    return len(write_body(folder, count=count, series=name))


def _duplicate_positions(folder: Path, name: str, count: int) -> int:
    return len(write_body(folder, count=count, series=name, duplicate_at=0))


def _duplicate_files(folder: Path, name: str, count: int) -> int:
    paths = write_body(folder, count=count, series=name)
    (folder / f"{name} again").write_bytes(paths[0].read_bytes())
    return count + 1


def _scouts(folder: Path, name: str, count: int) -> int:
    return len(write_body(folder, count=count, series=name, description="Scout"))


def _captures(folder: Path, name: str, count: int) -> int:
    words = ("DERIVED", "SECONDARY", "SCREEN SAVE")
    return len(write_body(folder, count=count, series=name, image_type=words))


def _mixed_kinds(folder: Path, name: str, count: int) -> int:
    write_body(folder / "scouts", count=1, series=name, study="study", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    for path in (folder / "scouts").iterdir():
        dataset = make_instance(
            stored=body(0), sop_uid=uid(name, "scout"), series_uid=uid("study", name), study_uid=uid("study"),
            image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
        )  # fmt: skip
        write_dataset(path, dataset)
    return 1 + len(write_body(folder, count=count, series=name))


def _undecodable(folder: Path, name: str, count: int) -> int:
    paths = write_body(folder, count=count, series=name, transfer_syntax=JPEG2000Lossless)
    content = paths[0].read_bytes()
    middle = content.index(b"\xff\x93") + 20  # behind the code stream's start of data
    paths[0].write_bytes(content[:middle] + bytes(len(content) - middle))
    return count


def _truncated(folder: Path, name: str, count: int) -> int:
    paths = write_body(folder, count=count, series=name)
    paths[-1].write_bytes(paths[-1].read_bytes()[:-SIDE_PX])
    return count


def _enhanced(folder: Path, name: str, count: int) -> int:
    places = [(-160.0, -160.0, 3.0 * index) for index in range(count)]
    _write(folder, name, make_enhanced_ct(np.stack([body(i) for i in range(count)]), positions=places, **_of(name)))
    return count


def _enhanced_cut_short(folder: Path, name: str, count: int) -> int:
    _enhanced(folder, name, count)
    (folder / name).write_bytes((folder / name).read_bytes()[: -SIDE_PX * SIDE_PX])  # half of the last frame
    return count


def _films(folder: Path, name: str, count: int) -> int:
    stored = np.stack([body(i) for i in range(count)])
    _write(folder, name, add_frames(make_instance(stored=stored[0], **_of(name)), stored))
    return count


def _segmentations(folder: Path, name: str, count: int) -> int:
    stored = np.stack([body(i) for i in range(count)])
    dataset = make_instance(stored=stored[0], sop_class=SegmentationStorage, modality="SEG", **_of(name))
    _write(folder, name, add_frames(dataset, stored))
    return count


def _of(name: str) -> dict[str, str]:
    return {"study_uid": uid("study"), "series_uid": uid("study", name), "sop_uid": uid("study", name, 0)}


def _write(folder: Path, name: str, dataset) -> None:
    write_dataset(folder / name, dataset)


PARTS: list[Part] = [
    _slices,
    _duplicate_positions,
    _duplicate_files,
    _scouts,
    _captures,
    _mixed_kinds,
    _undecodable,
    _truncated,
    _enhanced,
    _enhanced_cut_short,
    _films,
    _segmentations,
]


class Forgetful:
    """Replies in turn: as a perfect reader, with nonsense, cut off in the middle."""

    def __init__(self, turns: list[int]) -> None:
        self._turns = turns
        self._asked = 0

    def __call__(self, request) -> str:
        turn = self._turns[self._asked % len(self._turns)]
        self._asked += 1
        return [report_bright(request), "I am sorry", report_bright(request)[:20]][turn]


READERS = st.builds(
    lambda kind, turns, limit, failing: kind(Forgetful(turns), picture_limit=limit, out_of_memory_at=failing),
    st.sampled_from([ScriptedReader, StreamingReader]),
    st.lists(st.integers(0, 2), min_size=1, max_size=5),
    st.sampled_from([None, 1, 2, 3, 0]),
    st.sets(st.integers(1, 6), max_size=2),
)
PLACED = st.lists(st.tuples(st.sampled_from(PARTS), st.integers(1, 7)), min_size=1, max_size=4)


def check_accounted(document: ReportDocument, found: int) -> None:
    """Assert that each frame is accounted for once: read, or not read for a reason."""
    each = [fate for series in document.series for fate in series.slices]
    assert len(fates(document)) == found
    assert len({(fate.file, fate.frame_index) for fate in each}) == len(each)
    assert all(bool(fate.read_in) != bool(fate.not_read_because) for fate in each)
    assert all(file.reason for file in document.unread_files)
    assert [series.frame_count for series in document.series] == [len(series.slices) for series in document.series]


def check_page(page: str, document: ReportDocument, found: int) -> None:
    """Assert that the page gives the same sums, and that its bars are as long as the stacks and show the same gaps."""
    read = sum(bool(fate.read_in) for series in document.series for fate in series.slices)
    total = re.search(r"Of (\d+) frames found in this study’s series, (\d+) were read and (\d+) were not", page)
    others = re.search(r"Files with nothing to read \((\d+)\)", page)
    assert total, "the page gives no sums"
    counted, shown, unread = map(int, total.groups())
    assert (counted + (int(others.group(1)) if others else 0), shown, unread) == (found, read, counted - read)
    bars = re.findall(r'<svg class="strip" viewBox="0 0 (\d+) 20".*?</svg>', page, re.DOTALL)
    drawn = [
        Counter({kind: sum(int(width) for each, width in _rects(bar) if each == kind) for kind in ("read", "unread")})
        for bar in re.findall(r'<svg class="strip" viewBox=.*?</svg>', page, re.DOTALL)
    ]
    assert [sum(bar.values()) for bar in drawn] == list(map(int, bars))
    assert drawn == [_expected(series, view) for series in document.series for view in series.views]


def _rects(bar: str) -> list[tuple[str, str]]:
    return re.findall(r'<rect class="(read|unread)" x="\d+" y="\d+" width="(\d+)"', bar)


def _expected(series, view) -> Counter[str]:
    placed = [fate for fate in series.slices if fate.slice is not None]
    shown = sum(any(read.view == view.name for read in fate.read_in) for fate in placed)
    return Counter({"read": shown, "unread": len(placed) - shown})


def check_run(root: Path, parts: list[tuple[Part, int]], reader: ScriptedReader) -> None:
    bench = Bench(root)
    found = sum(part(bench.input / str(i), f"series {i}", count) for i, (part, count) in enumerate(parts))
    (bench.input / "notes.txt").write_text("no image")
    outcome = bench.run(reader)
    assert outcome.unread == (("notes.txt", "not a DICOM file"),)
    check_accounted(bench.report(), found)
    for page in bench.output.glob("*/index.html"):
        check_page(page.read_text(), bench.report(), found)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(PLACED, READERS)
def test_what_is_read_and_what_is_not_add_up_to_what_is_there(parts, reader):
    with TemporaryDirectory() as folder:
        check_run(Path(folder), [(_slices, 5), *parts], reader)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(PLACED, READERS)
def test_what_is_read_and_what_is_not_add_up_in_many_studies(parts, reader):
    with TemporaryDirectory() as folder:
        check_run(Path(folder), [(_slices, 5), *parts], reader)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__.strip("_"))
def test_each_kind_of_frame_is_accounted_for(tmp_path, part):
    check_run(tmp_path, [(_slices, 3), (part, 4)], ScriptedReader(report_bright))
