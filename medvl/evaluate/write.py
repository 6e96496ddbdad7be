"""Writes a phantom as a real DICOM CT study and keeps its truth as JSON.

Every identifier follows from the seed and the acquisition, so the same call writes the same bytes.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medvl.errors import InputError, OutputError
from medvl.evaluate.acquisition import Acquisition, draw_acquisition, scan_slice, slice_plane
from medvl.evaluate.phantoms import Lesion, LesionKind, Phantom
from medvl.records import Vector

FORMAT = 1
_DATE, _TIME = "20200101", "120000"
_ONE_ENCODER = Lock()  # OpenJPEG's encoder crashes the process when several threads are in it


@dataclass(frozen=True, slots=True)
class TrueLesion:
    """One lesion of a written study; sop_instance_uids: of the slices whose centre lies within it, feet first."""

    kind: LesionKind
    center_lps_mm: Vector
    diameter_mm: float
    side: Literal["left", "right"]
    hu: float
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """What a written study holds."""

    seed: int
    study_uid: str
    series_uid: str
    lesions: tuple[TrueLesion, ...]


def write_study(
    phantom: Phantom,
    folder: Path,
    acquisition: Acquisition | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> Truth:
    """Write one CT series into `folder`, made if need be; acquisition None: drawn from the phantom's seed.

    transfer_syntax: a UID; explicit little endian or any lossless one that pydicom can compress to.
    Raises OutputError if the folder cannot be written to.
    """
    acquisition = acquisition or draw_acquisition(phantom.seed, phantom)

    def write(index: int) -> None:
        dataset = slice_dataset(phantom, acquisition, index)
        if transfer_syntax != ExplicitVRLittleEndian:
            with _ONE_ENCODER:
                dataset.compress(transfer_syntax, generate_instance_uid=False)
        dataset.save_as(folder / f"ct_{dataset.InstanceNumber:04d}.dcm", enforce_file_format=True)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(write, range(acquisition.slice_count)))
    except OSError as error:
        raise OutputError(
            f"The study cannot be written to {folder.name} ({error.strerror})",
            expected="A folder with room for new files",
            todo="Name another folder",
        ) from error
    return study_truth(phantom, acquisition)


def study_truth(phantom: Phantom, acquisition: Acquisition) -> Truth:
    """Return what a study written from these two holds."""
    study_uid, series_uid, sop_uids = _uids(phantom, acquisition)
    heights = [slice_plane(phantom, acquisition, i).position_lps_mm[2] for i in range(acquisition.slice_count)]

    def seen_in(lesion: Lesion) -> tuple[str, ...]:
        low, high = lesion.extent_mm
        inside = [i for i, z in enumerate(heights) if low <= z <= high]
        nearest = int(np.argmin([abs(z - lesion.center_lps_mm[2]) for z in heights]))
        return tuple(sop_uids[i] for i in inside or [nearest])

    lesions = tuple(
        TrueLesion(one.kind, one.center_lps_mm, one.diameter_mm, one.side, one.hu, seen_in(one))
        for one in phantom.lesions
    )
    return Truth(phantom.seed, study_uid, series_uid, lesions)


def write_truth(truth: Truth, path: Path) -> None:
    """Write the truth as JSON."""
    path.write_text(json.dumps({"format": FORMAT, **asdict(truth)}, indent=1) + "\n", encoding="utf-8")


def read_truth(path: Path) -> Truth:
    """Read a truth written by `write_truth`.

    Raises InputError if the file is not one, or one of another format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        lesions = tuple(TrueLesion(**_with_tuples(one)) for one in content.pop("lesions"))
        return Truth(**content, lesions=lesions)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path.name} cannot be read as the truth of a study ({error})",
            expected=f"JSON of format {FORMAT} with seed, study_uid, series_uid and lesions",
            todo="Write it again with the phantom",
        ) from error


def _with_tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}


def slice_dataset(phantom: Phantom, acquisition: Acquisition, index: int) -> Dataset:
    """Return slice `index`, from the feet upwards, as an uncompressed CT image (PS3.3 A.3)."""
    dataset = Dataset()
    study_uid, series_uid, sop_uids = _uids(phantom, acquisition)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, sop_uids[index]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
    _describe_study(dataset, phantom)
    _describe_series(dataset, phantom, acquisition)
    _describe_plane(dataset, phantom, acquisition, index)
    _store_pixels(dataset, phantom, acquisition, index)
    return dataset


def _uids(phantom: Phantom, acquisition: Acquisition) -> tuple[str, str, tuple[str, ...]]:
    """Return the UIDs of study and series, and of the instances from the feet upwards."""

    def uid(*source: object) -> str:
        return str(generate_uid(entropy_srcs=["medvl phantom", str(phantom.seed), *map(str, source)]))

    instances = tuple(uid("instance", acquisition, index) for index in range(acquisition.slice_count))
    return uid("study"), uid("series", acquisition), instances


def _describe_study(dataset: Dataset, phantom: Phantom) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = f"Phantom^Seed {phantom.seed}"
    dataset.PatientID = f"PHANTOM-{phantom.seed}"
    dataset.PatientBirthDate, dataset.PatientSex = "", "O"
    dataset.PatientComments = "Synthetic phantom, not a patient"
    dataset.StudyDate, dataset.StudyTime = _DATE, _TIME
    dataset.StudyID, dataset.AccessionNumber = str(phantom.seed), ""
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Synthetic chest CT"


def _describe_series(dataset: Dataset, phantom: Phantom, acquisition: Acquisition) -> None:
    dataset.Modality, dataset.SeriesNumber = "CT", 1
    dataset.SeriesDescription = f"Synthetic chest {acquisition.slice_thickness_mm:g} mm"
    dataset.BodyPartExamined, dataset.PatientPosition = "CHEST", acquisition.storage.patient_position
    dataset.Manufacturer, dataset.ManufacturerModelName = "medvl phantom", "medvl phantom"
    dataset.InstitutionName = ""
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["medvl phantom", str(phantom.seed), "frame"])
    dataset.PositionReferenceIndicator = ""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImageComments = "Synthetic image computed by medvl; no patient was scanned"
    dataset.AcquisitionNumber, dataset.AcquisitionDate, dataset.AcquisitionTime = 1, _DATE, _TIME
    dataset.ContentDate, dataset.ContentTime = _DATE, _TIME
    dataset.SeriesDate, dataset.SeriesTime = _DATE, _TIME
    dataset.KVP = "120"
    dataset.ConvolutionKernel = "SHARP" if acquisition.grain < 0.05 else "SOFT"
    dataset.ReconstructionDiameter = f"{acquisition.size_px * acquisition.pixel_spacing_mm:.2f}"


def _describe_plane(dataset: Dataset, phantom: Phantom, acquisition: Acquisition, index: int) -> None:
    plane = slice_plane(phantom, acquisition, index)
    from_head = acquisition.storage.from_head
    dataset.InstanceNumber = acquisition.slice_count - index if from_head else index + 1
    dataset.ImagePositionPatient = [f"{value:.4f}" for value in plane.position_lps_mm]
    dataset.ImageOrientationPatient = [f"{value:g}" for value in (*plane.row_cosines, *plane.column_cosines)]
    dataset.PixelSpacing = [f"{acquisition.pixel_spacing_mm:g}"] * 2
    dataset.SliceThickness = f"{acquisition.slice_thickness_mm:g}"
    dataset.SpacingBetweenSlices = f"{acquisition.slice_spacing_mm:g}"
    dataset.SliceLocation = f"{plane.position_lps_mm[2]:.4f}"


def _store_pixels(dataset: Dataset, phantom: Phantom, acquisition: Acquisition, index: int) -> None:
    encoding, stored = acquisition.encoding, scan_slice(phantom, acquisition, index)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored = 16, encoding.bits_stored
    dataset.HighBit, dataset.PixelRepresentation = encoding.bits_stored - 1, int(encoding.signed)
    if encoding.padding is not None:
        dataset.PixelPaddingValue = encoding.padding
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", str(encoding.intercept), "HU"
    dataset.WindowCenter, dataset.WindowWidth = ["-600", "40"], ["1500", "400"]
    dataset.PixelData = stored.astype("<i2" if encoding.signed else "<u2").tobytes()
