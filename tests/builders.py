"""Writes small real DICOM files, level by level: series, instance, and the odd ones tests ask for by name.

File names and order say nothing: only the headers do. UIDs are made from names, so the same call writes the same files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)

Pixels = int | NDArray[np.integer[Any]] | Callable[[int], NDArray[np.integer[Any]]]
Place = tuple[float, float, float]


def uid(*names: object) -> str:
    """Make the same UID from the same names."""
    return str(generate_uid(entropy_srcs=[str(name) for name in names]))


def write_series(
    folder: Path,
    *,
    count: int = 5,
    rows: int = 16,
    columns: int = 16,
    modality: str = "CT",
    position: Place | None = (-100.0, -100.0, 0.0),
    iop: Sequence[float] | None = AXIAL,
    slice_step_mm: float = 2.5,
    gap_at: int | None = None,
    duplicate_at: int | None = None,
    tilt_degrees: float = 0.0,
    pixels: Pixels | None = None,
    instance_number: Callable[[int], int | None] = lambda index: index + 1,
    patient_id: str = "P1",
    patient_name: str = "Doe^Jane",
    study: str = "study",
    series: str = "series",
    transfer_syntax: str = ExplicitVRLittleEndian,
    **instance: Any,
) -> list[Path]:
    """Write `count` instances, the first at `position`, each `slice_step_mm` further along row × column.

    pixels: stored values of every slice, or a function from the slice's 0-based index to (rows, columns).
    gap_at: one position is missing just before the slice of this 0-based index.
    duplicate_at: the slice of this index is there twice, the second time as another instance, numbered last.
    tilt_degrees: the pictures lean about the patient's left-right axis; the positions still step along `iop`'s normal.
    study, series: names the UIDs are made of. instance: see `make_instance`.
    Returns the paths in slice order, the duplicate last.
    """
    step = _normal(iop) * slice_step_mm
    shifts = [index + (gap_at is not None and index >= gap_at) for index in range(count)]
    order = [*range(count), *([] if duplicate_at is None else [duplicate_at])]
    paths = []
    for file_index, slice_index in enumerate(order):
        place = None if position is None else np.asarray(position) + shifts[slice_index] * step
        dataset = make_instance(
            stored=_stored(pixels, slice_index, rows, columns),
            modality=modality,
            position=place,
            iop=_tilted(iop, tilt_degrees),
            number=instance_number(file_index),
            sop_uid=uid(study, series, file_index),
            series_uid=uid(study, series),
            study_uid=uid(study),
            patient_id=patient_id,
            patient_name=patient_name,
            **instance,
        )
        paths.append(write_dataset(folder / _meaningless_name(series, file_index), dataset, transfer_syntax))
    return paths


def make_instance(
    *,
    stored: NDArray[np.integer[Any]],
    modality: str = "CT",
    sop_class: str | None = None,
    sop_uid: str = "",
    series_uid: str = "",
    study_uid: str = "",
    patient_id: str = "P1",
    patient_name: str = "Doe^Jane",
    number: int | None = 1,
    position: Sequence[float] | None = None,
    iop: Sequence[float] | None = None,
    spacing_mm: tuple[float, float] | None = (0.8, 0.8),
    thickness_mm: float | None = 2.5,
    slope: float | None = 1.0,
    intercept: float | None = -1024.0,
    rescale_type: str | None = None,
    padding: int | None = None,
    padding_limit: int | None = None,
    windows: Sequence[tuple[float, float]] = (),
    window_names: Sequence[str] = (),
    window_function: str | None = None,
    monochrome1: bool = False,
    bits_stored: int | None = None,
    body_part: str = "CHEST",
    description: str = "",
    study_description: str = "",
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    kernel: str = "",
    manufacturer: str = "",
    frame_of_reference: str = "frame of reference",
    acquisition_number: int | None = 1,
    series_number: int | None = 1,
    patient_orientation: Sequence[str] = (),
    extra: dict[str, Any] | None = None,
) -> Dataset:
    """Make one single-frame grey instance.

    stored: (rows, columns) of an 8- or 16-bit integer type, which decides bits allocated and sign.
    windows: (centre, width) pairs. extra: any further attribute by keyword; None removes one.
    """
    dataset = Dataset()
    dataset.SOPClassUID = sop_class or _SOP_CLASSES.get(modality, SecondaryCaptureImageStorage)
    dataset.SOPInstanceUID = sop_uid or uid("instance")
    dataset.SeriesInstanceUID = series_uid or uid("study", "series")
    dataset.StudyInstanceUID = study_uid or uid("study")
    optional = {
        "PatientID": patient_id,
        "PatientName": patient_name,
        "Modality": modality,
        "StudyDate": "20240131",
        "StudyTime": "101500",
        "StudyDescription": study_description,
        "SeriesDescription": description,
        "SeriesNumber": series_number,
        "InstanceNumber": number,
        "AcquisitionNumber": acquisition_number,
        "BodyPartExamined": body_part,
        "ImageType": list(image_type) or None,
        "ConvolutionKernel": kernel or None,
        "Manufacturer": manufacturer or None,
        "FrameOfReferenceUID": uid(frame_of_reference) if position is not None else None,
        "ImagePositionPatient": _decimals(position),
        "ImageOrientationPatient": _decimals(iop) if position is not None else None,
        "PatientOrientation": list(patient_orientation) or None,
        "PixelSpacing": _decimals(spacing_mm),
        "SliceThickness": thickness_mm,
        "RescaleSlope": slope,
        "RescaleIntercept": intercept,
        "RescaleType": rescale_type,
        "WindowCenter": [center for center, _ in windows] or None,
        "WindowWidth": [width for _, width in windows] or None,
        "WindowCenterWidthExplanation": list(window_names) or None,
        "VOILUTFunction": window_function,
    }
    _set_all(dataset, optional)
    _set_pixels(dataset, stored, monochrome1, bits_stored)
    signed_vr = "SS" if dataset.PixelRepresentation else "US"
    if padding is not None:
        dataset.add_new("PixelPaddingValue", signed_vr, padding)
    if padding_limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", signed_vr, padding_limit)
    _set_all(dataset, extra or {})
    return dataset


def make_enhanced_ct(
    stored: NDArray[np.integer[Any]], *, positions: Sequence[Place], iop: Sequence[float] = AXIAL, **instance: Any
) -> Dataset:
    """Make one Enhanced CT instance: geometry per frame, the rest shared (PS3.3 C.7.6.16).

    stored: (frames, rows, columns), frame i at positions[i]. instance: see `make_instance`.
    """
    dataset = make_instance(stored=stored[0], sop_class=EnhancedCTImageStorage, **instance)
    shared = _group(
        PlaneOrientationSequence={"ImageOrientationPatient": _decimals(iop)},
        PixelMeasuresSequence={
            "PixelSpacing": dataset.PixelSpacing,
            "SliceThickness": dataset.SliceThickness,
        },
        PixelValueTransformationSequence={
            "RescaleSlope": dataset.RescaleSlope,
            "RescaleIntercept": dataset.RescaleIntercept,
            "RescaleType": "HU",
        },
    )
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(
        [_group(PlanePositionSequence={"ImagePositionPatient": _decimals(place)}) for place in positions]
    )
    for keyword in ("PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, keyword)
    return add_frames(dataset, stored)


def add_frames(dataset: Dataset, stored: NDArray[np.integer[Any]]) -> Dataset:
    """Give an instance several frames, (frames, rows, columns), and nothing that tells where they lie."""
    dataset.NumberOfFrames = len(stored)
    dataset.PixelData = _even(stored.tobytes())
    return dataset


def write_dataset(path: Path, dataset: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a dataset as a DICOM file in any transfer syntax that pydicom can encode; JPEG 2000 from 32 × 32 up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if transfer_syntax in NATIVE:
        dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    else:
        dataset.compress(transfer_syntax, generate_instance_uid=False)
    if transfer_syntax == ExplicitVRBigEndian and dataset.get("BitsAllocated") == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, np.uint16).byteswap().tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


_SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "DX": DigitalXRayImageStorageForPresentation}


def _normal(iop: Sequence[float] | None) -> NDArray[np.float64]:
    directions = np.asarray(AXIAL if iop is None else iop, dtype=np.float64)
    return np.cross(directions[:3], directions[3:])


def _tilted(iop: Sequence[float] | None, degrees: float) -> Sequence[float] | None:
    if iop is None or not degrees:
        return iop
    turn, (c, s) = np.eye(3), (np.cos(np.radians(degrees)), np.sin(np.radians(degrees)))
    turn[1:, 1:] = [[c, -s], [s, c]]
    return [float(value) for half in (iop[:3], iop[3:]) for value in turn @ half]


def _stored(pixels: Pixels | None, index: int, rows: int, columns: int) -> NDArray[np.integer[Any]]:
    if callable(pixels):
        return pixels(index)
    if isinstance(pixels, np.ndarray):
        return pixels
    if pixels is not None:
        return np.full((rows, columns), pixels, np.int16)
    return (np.arange(rows * columns, dtype=np.int16) + index).reshape(rows, columns)


def _set_pixels(dataset: Dataset, stored: NDArray[np.integer[Any]], monochrome1: bool, bits_stored: int | None) -> None:
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if monochrome1 else "MONOCHROME2"
    dataset.BitsAllocated = stored.dtype.itemsize * 8
    dataset.BitsStored = bits_stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.add_new("PixelData", "OB" if stored.dtype.itemsize == 1 else "OW", _even(stored.tobytes()))


def _set_all(dataset: Dataset, attributes: dict[str, Any]) -> None:
    for keyword, value in attributes.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)


def _group(**macros: dict[str, Any]) -> Dataset:
    group = Dataset()
    for keyword, attributes in macros.items():
        item = Dataset()
        _set_all(item, attributes)
        setattr(group, keyword, DicomSequence([item]))
    return group


def _decimals(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [round(float(value), 8) for value in values]


def _even(content: bytes) -> bytes:
    return content + b"\0" * (len(content) % 2)


def _meaningless_name(series: str, index: int) -> str:
    return hashlib.sha256(f"{series} {index}".encode()).hexdigest()[:8]
