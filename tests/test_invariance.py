"""What must not matter does not: the demo model finds one nodule in one place, however the study is stored and cut.

Only a pipeline that gets order, orientation, millimetres and windows right can pass, since the findings go all the way
from stored pixels through the model to patient space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from medvl.bundled import bundled_path
from medvl.evaluate.acquisition import STORAGES, Acquisition, Storage
from medvl.evaluate.counterfactuals import write_altered
from medvl.evaluate.match import NEAR_MM, Match, match_findings
from medvl.evaluate.phantoms import Phantom, Wish, draw_phantom
from medvl.evaluate.write import Truth, write_study
from medvl.pipeline.run import StudyRun
from medvl.reader.protocol import Reader
from medvl.records import ReaderIdentity, Reading, Request
from medvl.report.document import ReportDocument
from medvl.report.schema import read_document
from medvl.settings import Settings

pytestmark = pytest.mark.skipif(
    not bundled_path("demo_model").is_dir(), reason="needs the trained demo model, which this checkout lacks"
)

Read = Callable[..., ReportDocument]
Found = Callable[..., Match]


class KeptOpen:
    """A reader that many runs share: closing is left to the end of the process."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    @property
    def identity(self) -> ReaderIdentity:
        return self._reader.identity

    @property
    def independent(self) -> bool:
        return self._reader.independent

    def read(self, requests: Iterable[Request], rows: int) -> Iterator[tuple[int, Reading]]:
        return self._reader.read(requests, rows)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return draw_phantom(11, [Wish("solid nodule", 16.0, "right")])


@pytest.fixture(scope="module")
def short_scan(phantom: Phantom) -> Acquisition:
    """Twenty slices of 3 mm around the nodule."""
    z = phantom.lesions[0].center_lps_mm[2] - phantom.origin_lps_mm[2]
    return Acquisition(
        pixel_spacing_mm=0.7,
        slice_thickness_mm=3.0,
        slice_spacing_mm=3.0,
        bottom_mm=round(z - 28.5, 2),
        slice_count=20,
    )


@pytest.fixture(scope="module")
def demo_reader() -> KeptOpen:
    from medvl.reader.qwen import load_qwen_reader
    from medvl.reader.weights import ModelLocation

    return KeptOpen(load_qwen_reader(ModelLocation("demo", bundled_path("demo_model"), "demo")))


@pytest.fixture
def read(tmp_path: Path, demo_reader: KeptOpen) -> Read:
    def read_folder(study: Path, **asked: Any) -> ReportDocument:
        settings = Settings(output=tmp_path / "reports", model="demo", **asked)
        outcome = StudyRun(settings, tmp_path / "store", open_reader=lambda: demo_reader).read([study])
        (only,) = outcome.studies
        return read_document(settings.output / only.patient_key / only.key / "report.json")

    return read_folder


@pytest.fixture
def found(tmp_path: Path, phantom: Phantom, read: Read) -> Found:
    """Write the phantom, read it, and return the finding that is the nodule; none other may be there."""

    def find(acquisition: Acquisition, transfer_syntax: str = ExplicitVRLittleEndian, **asked: Any) -> Match:
        truth = write_study(phantom, tmp_path / "study", acquisition, transfer_syntax)
        matching = match_findings(read(tmp_path / "study", **asked).findings, truth.lesions)
        assert (len(matching.matches), len(matching.false)) == (1, 0)
        return matching.matches[0]

    return find


def assert_in_place(match: Match) -> None:
    assert match.distance_mm <= NEAR_MM
    assert (match.finding.side, match.finding.side_said) == ("right", "right")
    assert match.finding.width_mm == pytest.approx(match.lesion.diameter_mm, abs=4.0)


# The quick suite tries the two that turn most; the other ways take minutes together.
QUICK = ("head first prone", "flipped columns")
WAYS = [pytest.param(way, marks=() if way.name in QUICK else pytest.mark.slow) for way in STORAGES]


@pytest.mark.parametrize("storage", WAYS, ids=lambda storage: storage.name)
def test_the_way_slices_are_stored_moves_nothing(found: Found, short_scan: Acquisition, storage: Storage) -> None:
    assert_in_place(found(replace(short_scan, storage=storage)))


def test_another_pixel_spacing_moves_nothing(found: Found, short_scan: Acquisition) -> None:
    assert_in_place(found(replace(short_scan, pixel_spacing_mm=0.85)))


def test_thinner_slices_move_nothing(found: Found, short_scan: Acquisition) -> None:
    assert_in_place(found(replace(short_scan, slice_thickness_mm=1.5, slice_spacing_mm=1.5, slice_count=38)))


@pytest.mark.parametrize("chunk", ["5", "12"])
def test_the_length_of_chunks_moves_nothing(found: Found, short_scan: Acquisition, chunk: str) -> None:
    assert_in_place(found(short_scan, chunk=chunk))


def test_lossless_compression_changes_no_finding(found: Found, short_scan: Acquisition) -> None:
    plain, compressed = found(short_scan), found(short_scan, JPEG2000Lossless)
    assert compressed == plain


def test_a_window_that_hides_the_lung_hides_the_nodule(
    tmp_path: Path, phantom: Phantom, short_scan: Acquisition, read: Read
) -> None:
    truth = write_study(phantom, tmp_path / "study", short_scan)
    document = read(tmp_path / "study", windows=("bone",))
    assert match_findings(document.findings, truth.lesions).matches == ()


def test_a_shuffled_stack_tears_the_nodule_apart(
    tmp_path: Path, phantom: Phantom, short_scan: Acquisition, read: Read
) -> None:
    plain: Truth = write_study(phantom, tmp_path / "study", short_scan)
    shuffled = write_altered(tmp_path / "study", plain, tmp_path / "shuffled", "shuffled")
    assert match_findings(read(tmp_path / "shuffled").findings, shuffled.lesions).matches == ()
