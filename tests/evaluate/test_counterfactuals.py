from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from medvl.evaluate.acquisition import STORAGES, Storage
from medvl.evaluate.counterfactuals import ALTERATIONS, write_altered
from medvl.evaluate.phantoms import Wish, draw_phantom
from medvl.evaluate.write import TrueLesion, Truth, write_study
from tests.evaluate.builders import SMALL

PHANTOM = draw_phantom(4, [Wish("calcified nodule", 24.0, "left")])
AROUND_IT = PHANTOM.lesions[0].center_lps_mm[2] - PHANTOM.origin_lps_mm[2] - 16.0


def write_plain(folder: Path, storage: Storage = STORAGES[0]) -> Truth:
    return write_study(PHANTOM, folder, replace(SMALL, bottom_mm=AROUND_IT, storage=storage))


def read(folder: Path) -> list[Dataset]:
    datasets = [dcmread(path) for path in folder.glob("*.dcm")]
    return sorted(datasets, key=lambda dataset: float(dataset.ImagePositionPatient[2]))


def hu_at(folder: Path, lesion: TrueLesion) -> float:
    """Return the HU of the voxel nearest to a lesion's centre, from the headers alone."""
    x, y, z = lesion.center_lps_mm
    dataset = min(read(folder), key=lambda each: abs(float(each.ImagePositionPatient[2]) - z))
    left, top, _ = map(float, dataset.ImagePositionPatient)
    cosines, spacing = list(map(float, dataset.ImageOrientationPatient)), float(dataset.PixelSpacing[0])
    column, row = round((x - left) / spacing * cosines[0]), round((y - top) / spacing * cosines[4])
    return float(dataset.pixel_array[row, column]) + float(dataset.RescaleIntercept)


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.name)
def test_a_mirrored_lesion_lies_on_the_other_side_where_its_truth_says(tmp_path: Path, storage: Storage) -> None:
    plain = write_plain(tmp_path / "plain", storage)
    mirrored = write_altered(tmp_path / "plain", plain, tmp_path / "mirrored", "mirrored")
    (was,), (now,) = plain.lesions, mirrored.lesions
    assert (was.side, now.side) == ("left", "right")
    # The middle column lies 0 mm from the phantom's origin: it is the mirror.
    assert now.center_lps_mm[0] == pytest.approx(2 * PHANTOM.origin_lps_mm[0] - was.center_lps_mm[0], abs=0.02)
    assert now.center_lps_mm[1:] == was.center_lps_mm[1:]
    assert hu_at(tmp_path / "mirrored", now) > 150 > hu_at(tmp_path / "mirrored", was)


def test_a_blank_study_has_one_grey_level_and_no_lesion(tmp_path: Path) -> None:
    blank = write_altered(tmp_path / "plain", write_plain(tmp_path / "plain"), tmp_path / "blank", "blank")
    assert blank.lesions == ()
    assert all(np.ptp(dataset.pixel_array) == 0 for dataset in read(tmp_path / "blank"))


def test_a_shuffled_study_holds_the_same_pictures_in_another_order(tmp_path: Path) -> None:
    plain = write_plain(tmp_path / "plain")
    shuffled = write_altered(tmp_path / "plain", plain, tmp_path / "shuffled", "shuffled")
    before = [dataset.PixelData for dataset in read(tmp_path / "plain")]
    after = [dataset.PixelData for dataset in read(tmp_path / "shuffled")]
    assert sorted(before) == sorted(after)
    assert before != after
    (was,), (now,) = plain.lesions, shuffled.lesions
    assert hu_at(tmp_path / "shuffled", now) == hu_at(tmp_path / "plain", was)  # moved with its middle slice


def test_the_slices_named_by_a_shuffled_truth_show_the_lesion(tmp_path: Path) -> None:
    plain = write_plain(tmp_path / "plain")
    shuffled = write_altered(tmp_path / "plain", plain, tmp_path / "shuffled", "shuffled")

    def shown(folder: Path, truth: Truth) -> set[bytes]:
        return {each.PixelData for each in read(folder) if each.SOPInstanceUID in truth.lesions[0].sop_instance_uids}

    assert shown(tmp_path / "shuffled", shuffled) == shown(tmp_path / "plain", plain)
    assert len(shown(tmp_path / "plain", plain)) > 4  # 24 mm in slices of 3 mm


@pytest.mark.parametrize("how", ALTERATIONS)
def test_an_altered_study_is_another_study_in_the_same_places(tmp_path: Path, how: str) -> None:
    plain = write_plain(tmp_path / "plain")
    truth = write_altered(tmp_path / "plain", plain, tmp_path / how, how)
    before, after = read(tmp_path / "plain"), read(tmp_path / how)
    assert [each.ImagePositionPatient for each in before] == [each.ImagePositionPatient for each in after]
    assert {each.StudyInstanceUID for each in after} == {truth.study_uid} != {plain.study_uid}
    assert {each.SeriesInstanceUID for each in after} == {truth.series_uid}
    assert {each.SOPInstanceUID for each in before}.isdisjoint(each.SOPInstanceUID for each in after)
    assert all(each.file_meta.MediaStorageSOPInstanceUID == each.SOPInstanceUID for each in after)
    for lesion in truth.lesions:
        assert set(lesion.sop_instance_uids) <= {each.SOPInstanceUID for each in after}
