"""The line over real series, with a script in the model's place: right prompt, windows, plane, and no slice lost."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from medvl.report.schema import read_document
from tests.pipeline.bench import Bench, fates, write_checkpoint
from tests.reader_fakes import ScriptedReader

DATA = Path(__file__).parents[2] / "shared" / "data"


class Case(NamedTuple):
    folder: str
    prompt: str
    windows: tuple[str, ...]
    plane: str
    slices: int


CASES = [
    Case("chest_ct", "chest_ct", ("lung", "mediastinum"), "axial", 100),
    Case("abdomen_ct", "abdomen_ct", ("abdomen",), "axial", 51),
    Case("abdomen_ct_j2k", "generic_ct", ("abdomen", "lung"), "axial", 20),
    Case("head_ct", "head_ct", ("brain", "subdural"), "axial", 108),
]


@pytest.fixture(scope="session")
def unpack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")

    def unpacked(name: str) -> Path:
        archive = DATA / f"{name}.tar.xz"
        if not archive.exists():
            pytest.skip(f"no real series {name} beside the checkout")
        if not (folder / name).exists():
            with tarfile.open(archive) as opened:
                opened.extractall(folder, filter="data")
        return folder / name

    return unpacked


@pytest.fixture
def real(tmp_path) -> Bench:
    """A bench whose checkpoint leaves windows and slabs to medvl."""
    bench = Bench(tmp_path)
    write_checkpoint(bench.checkpoint, windows=[], slab="auto", chunk="10")
    return bench


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder)
def test_a_real_series_is_read_whole_with_its_prompt_and_windows(unpack, real, case):
    folder = unpack(case.folder)
    reader = ScriptedReader()
    outcome = real.run(reader, paths=(folder,))
    document = real.report()
    [series] = [series for series in document.series if series.chosen]
    assert {view.prompt for view in series.views} == {case.prompt}
    assert tuple(view.name for view in series.views) == case.windows
    assert (series.plane, len(series.slices)) == (case.plane, case.slices)
    assert all({read.view for read in fate.read_in} == set(case.windows) for fate in series.slices)
    assert (outcome.studies[0].slices_read, outcome.exit_status) == (case.slices, 0)
    assert len(fates(document)) == sum(path.is_file() for path in folder.rglob("*"))


def test_both_real_chest_x_rays_are_read_as_such(unpack, real):
    reader = ScriptedReader()
    outcome = real.run(reader, paths=(unpack("xray"),))
    assert [(study.slices_read, study.slices_found) for study in outcome.studies] == [(1, 1), (1, 1)]
    assert outcome.exit_status == 0
    reports = [read_document(path) for path in real.output.glob("*/*/report.json")]
    assert [view.prompt for report in reports for series in report.series for view in series.views] == [
        "chest_xray"
    ] * 2
    # The lungs are dark and the middle is bright in both, MONOCHROME1 or not.
    for request in reader.requests:
        picture = request.parts[1]
        lungs = np.median(picture[24:36, 12:22]), np.median(picture[24:36, 42:52])
        assert max(lungs) < np.median(picture[24:40, 28:36])


def test_a_real_chest_lies_upright_and_the_right_way_round(unpack, real):
    reader = ScriptedReader()
    real.run(reader, paths=(unpack("chest_ct"),), windows=("500/600",), size_px=128)
    middle = reader.requests[len(reader.requests) // 2].parts[1]
    # Above 780 HU there is only the contrast agent in the superior vena cava: before the spine, to the patient's right.
    rows, columns = np.nonzero(middle > 240)
    assert 40 < rows.mean() < 60
    assert 45 < columns.mean() < 60


def test_odd_files_end_no_run_and_every_study_has_an_outcome(unpack, real):
    outcome = real.run(ScriptedReader(), paths=(unpack("edge"),))
    assert len(outcome.studies) > 40
    assert {study.status for study in outcome.studies} <= {"complete", "partial", "nothing"}
    read = [study for study in outcome.studies if study.status == "complete"]
    assert all(study.slices_read == study.slices_found > 0 for study in read)
    assert all(study.page.exists() for study in outcome.studies)
