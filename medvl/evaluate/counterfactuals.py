"""Turns a study with known truth into one that a model which really looks must answer differently.

mirrored  every picture left to right: each lesion changes its side. A model that goes by habit keeps the old one.
blank     one grey level everywhere: whatever is found is invented.
shuffled  pictures dealt out again over the positions: what crosses several slices falls apart.

Headers stay as they are but for the UIDs, so the pipeline reads an altered study like any other, and its altered truth
is scored like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medvl.evaluate.write import TrueLesion, Truth
from medvl.records import Vector

Alteration = Literal["mirrored", "blank", "shuffled"]
ALTERATIONS: tuple[Alteration, ...] = get_args(Alteration)


@dataclass(frozen=True, slots=True)
class _Slices:
    """The files of one axial series, from the feet upwards. shown_at[i]: the position that picture i is moved to."""

    paths: tuple[Path, ...]
    headers: tuple[Dataset, ...]
    shown_at: tuple[int, ...]


def write_altered(study: Path, truth: Truth, target: Path, how: Alteration) -> Truth:
    """Write an altered copy of a study into `target` and return what is true of it.

    study: a folder of one uncompressed axial series, as `write_study` leaves it. The same study gives the same copy.
    Raises OSError if the copy cannot be written.
    """
    slices = _read_slices(study, truth.seed if how == "shuffled" else None)
    target.mkdir(parents=True, exist_ok=True)
    for path, dataset in _altered(slices, how):
        dataset.save_as(target / path.name, enforce_file_format=True)
    return altered_truth(slices.headers, slices.shown_at, truth, how)


def altered_truth(headers: Sequence[Dataset], shown_at: Sequence[int], truth: Truth, how: Alteration) -> Truth:
    """Return what is true of an altered copy: sides swapped, nothing at all, or every lesion where its middle went.

    headers: of the unaltered slices from the feet upwards. shown_at: for each, where its picture is now.
    """
    lesions = () if how == "blank" else truth.lesions
    if how == "mirrored":
        lesions = tuple(_mirrored(lesion, headers[0]) for lesion in lesions)
    if how == "shuffled":
        lesions = tuple(_moved(lesion, headers, shown_at) for lesion in lesions)
    renamed = tuple(
        replace(lesion, sop_instance_uids=tuple(_uid(how, uid) for uid in lesion.sop_instance_uids))
        for lesion in lesions
    )
    return replace(truth, study_uid=_uid(how, truth.study_uid), series_uid=_uid(how, truth.series_uid), lesions=renamed)


def _read_slices(study: Path, shuffle_seed: int | None) -> _Slices:
    read = [(dcmread(path, stop_before_pixels=True), path) for path in study.glob("*.dcm")]
    read.sort(key=lambda pair: float(pair[0].ImagePositionPatient[2]))
    order = np.arange(len(read))
    if shuffle_seed is not None:
        order = np.random.default_rng([shuffle_seed, 3]).permutation(order)
    return _Slices(tuple(path for _, path in read), tuple(header for header, _ in read), tuple(order.tolist()))


def _altered(slices: _Slices, how: Alteration) -> Iterator[tuple[Path, Dataset]]:
    """Yield each picture under the header of the place it is moved to."""
    for path, place in zip(slices.paths, slices.shown_at, strict=True):
        pixels = _alter_pixels(dcmread(path).pixel_array, how)
        dataset = dcmread(slices.paths[place])
        dataset.PixelData = pixels.tobytes()
        dataset.StudyInstanceUID = _uid(how, dataset.StudyInstanceUID)
        dataset.SeriesInstanceUID = _uid(how, dataset.SeriesInstanceUID)
        dataset.SOPInstanceUID = _uid(how, dataset.SOPInstanceUID)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.StudyDescription = f"{dataset.StudyDescription}, {how}"
        yield slices.paths[place], dataset


def _alter_pixels(stored: NDArray[np.integer[Any]], how: Alteration) -> NDArray[np.integer[Any]]:
    if how == "mirrored":
        return stored[:, ::-1]
    return np.full_like(stored, stored.min()) if how == "blank" else stored


def _mirrored(lesion: TrueLesion, header: Dataset) -> TrueLesion:
    """Reflect a lesion in the plane halfway between the first and the last column, which all slices share."""
    along = np.array(header.ImageOrientationPatient[:3], float)
    half_mm = 0.5 * (header.Columns - 1) * float(header.PixelSpacing[1])
    middle = np.array(header.ImagePositionPatient, float) + half_mm * along
    center = np.array(lesion.center_lps_mm)
    reflected = center - 2 * ((center - middle) @ along) * along
    return replace(lesion, center_lps_mm=_vector(reflected), side="right" if lesion.side == "left" else "left")


def _moved(lesion: TrueLesion, headers: Sequence[Dataset], shown_at: Sequence[int]) -> TrueLesion:
    """Move a lesion with the slice nearest to its centre, where it is largest."""
    positions = [np.array(header.ImagePositionPatient, float) for header in headers]
    nearest = int(np.argmin([abs(position[2] - lesion.center_lps_mm[2]) for position in positions]))
    center = np.array(lesion.center_lps_mm) + positions[shown_at[nearest]] - positions[nearest]
    place_of = {str(header.SOPInstanceUID): place for header, place in zip(headers, shown_at, strict=True)}
    uids = tuple(str(headers[place_of[uid]].SOPInstanceUID) for uid in lesion.sop_instance_uids)
    return replace(lesion, center_lps_mm=_vector(center), sop_instance_uids=uids)


def _uid(how: Alteration, uid: str) -> str:
    return str(generate_uid(entropy_srcs=["medvl counterfactual", how, str(uid)]))


def _vector(point: NDArray[np.float64]) -> Vector:
    x, y, z = (round(float(value), 2) for value in point)
    return x, y, z
