"""The bundled sample, written again in every transfer syntax that a library here can encode, is the same study."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filereader import dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from typer.testing import CliRunner

from medvl.bundled import bundled_path
from medvl.cli.app import app
from medvl.dicom.frames import DEFLATED_FRAMES
from medvl.dicom.grey import render
from medvl.dicom.scan import scan
from medvl.pipeline.views import Wanted, plan_views
from medvl.prompts import load_prompts
from tests.builders import write_dataset
from tests.dicom.recoding import GDCM_SYNTAXES, recode

SLICES = 3
SHOWN_PX = 256
Write = Callable[[Dataset, Path], Any]

pytestmark = pytest.mark.skipif(not bundled_path("sample_data").is_dir(), reason="needs the bundled sample")


def with_pydicom(syntax: str, dataset: Dataset, path: Path) -> None:
    write_dataset(path, dataset, syntax)


def with_gdcm(name: str, dataset: Dataset, path: Path) -> None:
    plain = write_dataset(path.with_suffix(".plain"), dataset)
    recode(plain, path, name)
    plain.unlink()


def deflated_by_frame(dataset: Dataset, path: Path) -> None:
    """Write Deflated Image Frame Compression (PS3.5 A.4.13) under a name of equal length, since pydicom knows none."""
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    content = deflate.compress(dataset.PixelData) + deflate.flush()
    write_dataset(path, dataset, JPEGLSLossless)
    written = dcmread(path)
    written.PixelData = encapsulate([content + b"\0" * (len(content) % 2)])
    written.save_as(path)
    path.write_bytes(path.read_bytes().replace(JPEGLSLossless.encode(), DEFLATED_FRAMES.encode() + b"\0"))


def near_lossless(error: int, dataset: Dataset, path: Path) -> None:
    write_dataset(path, dataset)
    written = dcmread(path)
    written.compress(JPEGLSNearLossless, jls_error=error, generate_instance_uid=False)
    written.save_as(path)


LOSSLESS: dict[str, Write] = {
    **{
        f"{UID(syntax).name}": partial(with_pydicom, syntax)
        for syntax in (
            *(ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
            *(RLELossless, JPEGLSLossless, JPEG2000Lossless),
        )
    },
    **{f"{name} by GDCM": partial(with_gdcm, name) for name in GDCM_SYNTAXES},
    "Deflated Image Frame Compression": deflated_by_frame,
}


def write_sample(folder: Path, write: Write) -> Path:
    """Write the middle slices of the sample."""
    folder.mkdir()
    datasets = sorted(map(dcmread, bundled_path("sample_data").rglob("*.dcm")), key=lambda each: each.InstanceNumber)
    middle = len(datasets) // 2
    for number, dataset in enumerate(datasets[middle : middle + SLICES]):
        dataset.decompress(generate_instance_uid=False)
        fresh = Dataset()  # one that was read keeps its byte order
        for element in dataset:
            fresh.add(element)
        write(fresh, folder / f"{number}.dcm")
    return folder


def inspected(folder: Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["inspect", str(folder), "--json", "--no-cache"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def pictures(folder: Path) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Every picture of every view, as the model would see it."""
    (study,) = scan([folder]).studies
    planned = plan_views(study, Wanted(windows=("lung", "mediastinum"), size_px=SHOWN_PX, slab="off"), load_prompts())
    views = [each.view for each in planned.views]
    return [render(slab, view.rendering, view.stack.turn).grey for view in views for slab in view.slabs]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    folder = write_sample(tmp_path_factory.mktemp("plain") / "study", partial(with_pydicom, ExplicitVRLittleEndian))
    return inspected(folder), pictures(folder)


@pytest.mark.parametrize("name", LOSSLESS)
def test_the_sample_is_the_same_study_in_every_lossless_transfer_syntax(tmp_path, plain, name):
    folder = write_sample(tmp_path / "study", LOSSLESS[name])
    assert inspected(folder) == plain[0]
    shown = pictures(folder)
    assert len(shown) == 2 * SLICES
    assert all((one == other).all() for one, other in zip(shown, plain[1], strict=True))


def test_a_loss_of_two_values_moves_grey_by_two_levels_at_most(tmp_path, plain):
    # Lung: 255 levels over 1,500 HU, so two HU are a third of a level; it is rounded for the window and when resized.
    folder = write_sample(tmp_path / "study", partial(near_lossless, 2))
    assert inspected(folder) == plain[0]
    lung = zip(pictures(folder)[:SLICES], plain[1][:SLICES], strict=True)
    apart = [np.abs(one.astype(int) - other).max() for one, other in lung]
    assert max(apart) in (1, 2)
