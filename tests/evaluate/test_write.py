from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from medvl.bundled import bundled_path
from medvl.errors import InputError, OutputError
from medvl.evaluate.acquisition import ENCODINGS, STORAGES, Acquisition, Encoding, Storage, draw_acquisition
from medvl.evaluate.phantoms import Phantom, Wish, draw_phantom
from medvl.evaluate.sample import SAMPLE_ACQUISITION, sample_phantom
from medvl.evaluate.write import Truth, read_truth, slice_dataset, study_truth, write_study, write_truth

SMALL = Acquisition(
    pixel_spacing_mm=3.0,
    blur_mm=3.0,
    size_px=128,
    slice_thickness_mm=3.0,
    slice_spacing_mm=3.0,
    slice_count=4,
    noise_hu=0.0,
)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return draw_phantom(5, [Wish("solid nodule", 24, "left")])


def through_the_nodule(phantom: Phantom, acquisition: Acquisition) -> Acquisition:
    """Return the acquisition moved so that its 14 slices hold the only nodule."""
    low = phantom.lesions[0].extent_mm[0] - phantom.origin_lps_mm[2] - 8.0
    return replace(acquisition, bottom_mm=low, slice_count=14)


def read(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def rescaled(dataset: pydicom.Dataset) -> np.ndarray:
    return dataset.pixel_array.astype(float) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)


def pixel_lps(dataset: pydicom.Dataset) -> np.ndarray:
    """Return (rows, columns, 3), by PS3.3 C.7.6.2.1.1."""
    cosines = np.array(dataset.ImageOrientationPatient, dtype=float)
    row_step, column_step = cosines[:3] * dataset.PixelSpacing[1], cosines[3:] * dataset.PixelSpacing[0]
    rows, columns = np.mgrid[: dataset.Rows, : dataset.Columns][..., None]
    return np.array(dataset.ImagePositionPatient, dtype=float) + columns * row_step + rows * column_step


def test_the_same_phantom_writes_the_same_bytes(tmp_path: Path, phantom: Phantom) -> None:
    noisy = replace(SMALL, noise_hu=20.0)
    for name in ("one", "again"):
        write_study(phantom, tmp_path / name, noisy, JPEGLSLossless)
    files = [path.name for path in sorted((tmp_path / "one").iterdir())]
    assert files == ["ct_0001.dcm", "ct_0002.dcm", "ct_0003.dcm", "ct_0004.dcm"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.name)
def test_the_nodule_is_where_the_truth_says_however_the_study_is_stored(
    tmp_path: Path, phantom: Phantom, storage: Storage
) -> None:
    acquisition = through_the_nodule(phantom, replace(SMALL, storage=storage))
    (nodule,) = write_study(phantom, tmp_path, acquisition).lesions
    datasets = read(tmp_path)
    points = np.concatenate([pixel_lps(dataset).reshape(-1, 3) for dataset in datasets])
    hu = np.concatenate([rescaled(dataset).ravel() for dataset in datasets])
    near = np.linalg.norm(points - nodule.center_lps_mm, axis=1) < 15
    weight = np.clip(hu + 800, 0, 800)[near]
    center = (points[near] * weight[:, None]).sum(axis=0) / weight.sum()
    assert center == pytest.approx(nodule.center_lps_mm, abs=1.0)
    assert {str(dataset.PatientPosition) for dataset in datasets} == {storage.patient_position}


def test_the_truth_names_the_slices_that_cut_the_nodule(tmp_path: Path, phantom: Phantom) -> None:
    (nodule,) = write_study(phantom, tmp_path, through_the_nodule(phantom, SMALL)).lesions
    low, high = phantom.lesions[0].extent_mm
    inside = {d.SOPInstanceUID for d in read(tmp_path) if low <= d.ImagePositionPatient[2] <= high}
    assert set(nodule.sop_instance_uids) == inside
    assert 7 <= len(inside) <= 10  # 24 mm, give or take 12 %, in steps of 3 mm


def test_the_diameter_is_that_of_the_middle_slice(tmp_path: Path, phantom: Phantom) -> None:
    fine = replace(SMALL, pixel_spacing_mm=0.8, blur_mm=0.8, size_px=450, slice_thickness_mm=1.0)
    middle = phantom.lesions[0].center_lps_mm[2] - phantom.origin_lps_mm[2]
    (nodule,) = write_study(phantom, tmp_path, replace(fine, bottom_mm=middle, slice_count=1)).lesions
    (dataset,) = read(tmp_path)
    near = np.linalg.norm(pixel_lps(dataset) - nodule.center_lps_mm, axis=2) < 15
    area_mm2 = (near & (rescaled(dataset) > -400)).sum() * 0.8**2
    assert 2 * np.sqrt(area_mm2 / np.pi) == pytest.approx(24, abs=0.8)


def test_reversed_order_numbers_slices_from_the_head(tmp_path: Path, phantom: Phantom) -> None:
    write_study(phantom, tmp_path, replace(SMALL, storage=STORAGES[1]))
    heights = [float(dataset.ImagePositionPatient[2]) for dataset in read(tmp_path)]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: f"{encoding.intercept}-{encoding.bits_stored}")
def test_every_encoding_holds_the_same_hu_and_marks_its_padding(phantom: Phantom, encoding: Encoding) -> None:
    plain = rescaled(slice_dataset(phantom, SMALL, 1))
    dataset = slice_dataset(phantom, replace(SMALL, encoding=encoding), 1)
    hu = rescaled(dataset)
    assert hu[64, 64] == plain[64, 64] and hu[64, 0] == plain[64, 0]
    if encoding.padding is None:
        assert "PixelPaddingValue" not in dataset
    else:
        assert dataset.PixelPaddingValue == encoding.padding == dataset.pixel_array[0, 0]
        assert dataset.PixelPaddingValue != dataset.pixel_array[64, 0]


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless], ids=lambda uid: uid.name)
@pytest.mark.parametrize("encoding", ENCODINGS[:2], ids=["unsigned", "signed"])
def test_compression_keeps_every_pixel(tmp_path: Path, phantom: Phantom, syntax: str, encoding: Encoding) -> None:
    acquisition = replace(SMALL, encoding=encoding, noise_hu=20.0)
    write_study(phantom, tmp_path, acquisition, syntax)
    for index, dataset in enumerate(read(tmp_path)):
        assert dataset.file_meta.TransferSyntaxUID == syntax
        assert np.array_equal(dataset.pixel_array, slice_dataset(phantom, acquisition, index).pixel_array)


def test_drawn_acquisitions_cover_the_chest_and_vary() -> None:
    phantom = draw_phantom(0, [])
    thorax = phantom.scene.thorax
    drawn = [draw_acquisition(seed, phantom) for seed in range(40)]
    for one in drawn:
        top = one.bottom_mm + (one.slice_count - 1) * one.slice_spacing_mm
        assert one.bottom_mm < thorax.left_dome - thorax.dome_drop and top > thorax.cage_top
        assert 0.6 <= one.pixel_spacing_mm <= 1.0 and 1 <= one.slice_thickness_mm <= 5
    assert {one.storage for one in drawn} == set(STORAGES) and {one.encoding for one in drawn} == set(ENCODINGS)


def test_a_study_says_that_it_is_synthetic(phantom: Phantom) -> None:
    dataset = slice_dataset(phantom, SMALL, 0)
    assert (str(dataset.PatientName), dataset.PatientID) == ("Phantom^Seed 5", "PHANTOM-5")
    assert dataset.Manufacturer == "medvl phantom" and "Synthetic" in dataset.ImageComments


def test_a_truth_comes_back_from_its_file(tmp_path: Path) -> None:
    truth = study_truth(draw_phantom(8, [Wish("pleural effusion"), Wish("solid nodule", 7)]), SMALL)
    write_truth(truth, tmp_path / "truth.json")
    assert read_truth(tmp_path / "truth.json") == truth
    assert [lesion.kind for lesion in truth.lesions] == ["solid nodule", "pleural effusion"]


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "lesions": [{"kind": 1}]}'])
def test_a_file_that_is_no_truth_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(InputError, match=r"truth\.json cannot be read as the truth of a study"):
        read_truth(tmp_path / "truth.json")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, phantom: Phantom) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match=r"The study cannot be written to taken"):
        write_study(phantom, tmp_path / "taken", SMALL)


# --- the sample study --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample_truth() -> Truth:
    return read_truth(bundled_path("sample_data") / "chest_ct_truth.json")


def test_the_sample_is_what_its_generator_writes(sample_truth: Truth) -> None:
    assert sample_truth == study_truth(sample_phantom(), SAMPLE_ACQUISITION)
    index = 40
    expected = slice_dataset(sample_phantom(), SAMPLE_ACQUISITION, index)
    stored = pydicom.dcmread(bundled_path("sample_data") / "chest_ct" / f"ct_{index + 1:04d}.dcm")
    assert stored.SOPInstanceUID == expected.SOPInstanceUID
    # Another processor may round a sine or an exponential the other way.
    assert np.abs(stored.pixel_array.astype(int) - expected.pixel_array.astype(int)).max() <= 1


def test_the_sample_has_a_nodule_on_each_side_and_stays_small(sample_truth: Truth) -> None:
    assert [(one.kind, one.side, one.diameter_mm) for one in sample_truth.lesions] == [
        ("solid nodule", "right", 12.0),
        ("solid nodule", "left", 9.0),
    ]
    files = list((bundled_path("sample_data") / "chest_ct").glob("*.dcm"))
    assert len(files) == 64
    assert sum(path.stat().st_size for path in files) < 9_000_000


def test_the_samples_nodules_are_in_its_pixels(sample_truth: Truth) -> None:
    folder = bundled_path("sample_data") / "chest_ct"
    by_uid = {str(dataset.SOPInstanceUID): dataset for dataset in read(folder)}
    for lesion in sample_truth.lesions:
        dataset = by_uid[lesion.sop_instance_uids[len(lesion.sop_instance_uids) // 2]]
        column, row = (
            round((lesion.center_lps_mm[axis] - float(dataset.ImagePositionPatient[axis])) / 0.76) for axis in (0, 1)
        )
        assert rescaled(dataset)[row - 1 : row + 2, column - 1 : column + 2].mean() > -150
