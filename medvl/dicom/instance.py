"""Turns one file's header into frames, and the facts of its series, study and patient.

Whether a series is worth reading is for `kinds`; where frames lie among each other for `geometry`.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from sys import intern
from typing import Literal

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from medvl.dicom.elements import integer, items, number, numbers, person, text, texts
from medvl.dicom.header import BROKEN, PIXEL_DATA, Header, read_header
from medvl.dicom.source import open_source, source_size
from medvl.errors import InputError
from medvl.records import Frame, PixelLayout, Plane, Source, Vector, Window

NO_PIXELS = "no pixel data"
MAX_FRAME_PIXELS = 2**27  # the largest mammograms have 2**25; a false header must not claim all memory
_COSINE_ERROR = 0.01  # of a length or an angle's cosine; headers round to few digits
_WINDOW_FUNCTIONS: dict[str, Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]] = {
    "LINEAR": "LINEAR",
    "LINEAR_EXACT": "LINEAR_EXACT",
    "SIGMOID": "SIGMOID",
}
_FRAGMENT_BYTES = 8  # at least, for each frame of encapsulated pixels (PS3.5 A.4)

_STUDY = "StudyInstanceUID StudyDate StudyTime StudyDescription AccessionNumber"
_PATIENT = "PatientID IssuerOfPatientID PatientName PatientBirthDate PatientSex"
_SERIES = (
    "SeriesInstanceUID SeriesNumber Modality SeriesDescription BodyPartExamined ProtocolName ConvolutionKernel "
    "ImageType Manufacturer ContrastBolusAgent BurnedInAnnotation"
)
_INSTANCE = (
    "SOPClassUID SOPInstanceUID InstanceNumber AcquisitionNumber AcquisitionDate AcquisitionTime FrameOfReferenceUID "
    "GantryDetectorTilt PatientOrientation ViewPosition Units"
)
_PIXELS = (
    "Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored "
    "PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit"
)
_GEOMETRY = "ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness"
_VALUES = "RescaleSlope RescaleIntercept RescaleType"
_WINDOWS = "WindowCenter WindowWidth WindowCenterWidthExplanation VOILUTFunction"
_GROUPS = "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence"
_TAGS = tuple(
    tag_for_keyword(keyword) or 0
    for part in (_STUDY, _PATIENT, _SERIES, _INSTANCE, _PIXELS, _GEOMETRY, _VALUES, _WINDOWS, _GROUPS)
    for keyword in part.split()
)
# Enhanced objects keep in these what others have at the top of the header (PS3.3 C.7.6.16.2).
_PLACE, _TURN, _MEASURES, _RESCALE, _VOI = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
)


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """What an instance's header says of its study and patient."""

    uid: str
    date: str
    time: str
    description: str
    accession: str
    patient_id: str
    patient_id_issuer: str
    patient_name: str
    birth_date: str
    sex: str


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What an instance's header says of its series; the image type may differ between instances."""

    uid: str
    number: int | None
    modality: str
    description: str
    body_part: str
    protocol: str
    kernel: str
    image_type: tuple[str, ...]
    manufacturer: str
    contrast: str
    burned_in_annotation: bool


@dataclass(frozen=True, slots=True)
class Instance:
    """One file: its readable frames, and why the others are not."""

    source: Source
    sop_instance_uid: str
    sop_class_uid: str
    study: StudyFacts
    series: SeriesFacts
    photometric: str
    frames: tuple[Frame, ...]
    frame_count: int  # as the header claims; 1 where it cannot be believed
    unread_because: str  # of the frames that are not in `frames`


def read_instance(source: Source) -> Instance:
    """Read one file's header.

    Raises InputError, saying why in a few words, when it is no DICOM file or too broken to say what it holds.
    """
    try:
        size_bytes = source_size(source)
        with open_source(source) as stream:
            header = read_header(stream, size_bytes, _TAGS)
        return _instance_of(source, header)
    except RecursionError as error:
        raise InputError("sequences nested too deeply") from error
    except PermissionError as error:
        raise InputError(f"cannot be read ({error.strerror})") from error
    except (zlib.error, zipfile.BadZipFile) as error:
        raise InputError("compressed bytes are damaged") from error
    except BROKEN as error:
        raise InputError(f"broken DICOM header ({type(error).__name__})") from error


def _instance_of(source: Source, header: Header) -> Instance:
    dataset = header.dataset
    frames: tuple[Frame, ...] = ()
    frame_count, because = 1, ""
    try:
        layout, readable_count = _layout_of(header)
        frame_count = layout.frame_count
        frames = _frames_of(source, header, layout, readable_count)
        if readable_count < frame_count:
            because = f"truncated: the pixels of {readable_count} of {frame_count} frames are there"
    except InputError as error:
        because = error.found
    return Instance(
        source=source,
        sop_instance_uid=_sop_instance_uid(header),
        sop_class_uid=intern(text(dataset, "SOPClassUID") or text(header.meta, "MediaStorageSOPClassUID")),
        study=_study_facts(dataset),
        series=_series_facts(dataset),
        photometric=text(dataset, "PhotometricInterpretation").upper(),
        frames=frames,
        frame_count=frame_count,
        unread_because=because,
    )


def _study_facts(dataset: Dataset) -> StudyFacts:
    get = partial(text, dataset)
    return StudyFacts(
        uid=get("StudyInstanceUID"),
        date=get("StudyDate"),
        time=get("StudyTime"),
        description=get("StudyDescription"),
        accession=get("AccessionNumber"),
        patient_id=get("PatientID"),
        patient_id_issuer=get("IssuerOfPatientID"),
        patient_name=person(dataset, "PatientName"),
        birth_date=get("PatientBirthDate"),
        sex=get("PatientSex"),
    )


def _series_facts(dataset: Dataset) -> SeriesFacts:
    get = partial(text, dataset)
    return SeriesFacts(
        uid=get("SeriesInstanceUID"),
        number=integer(dataset, "SeriesNumber"),
        modality=get("Modality").upper(),
        description=get("SeriesDescription"),
        body_part=get("BodyPartExamined"),
        protocol=get("ProtocolName"),
        kernel=get("ConvolutionKernel"),  # later values are strengths of iterative reconstruction
        image_type=tuple(value.upper() for value in texts(dataset, "ImageType")),
        manufacturer=get("Manufacturer"),
        contrast=get("ContrastBolusAgent"),
        burned_in_annotation=get("BurnedInAnnotation").upper() == "YES",
    )


def _layout_of(header: Header) -> tuple[PixelLayout, int]:
    """Say how the pixels lie and how many frames are really there.

    Raises InputError, with the reason, over what no pixels can look like.
    """
    dataset, pixels = header.dataset, header.pixels
    if pixels is None:
        raise InputError(NO_PIXELS)
    if pixels.tag != PIXEL_DATA:
        raise InputError("floating-point pixels")
    pixel_count = _pixel_count(dataset)
    allocated = integer(dataset, "BitsAllocated")
    if allocated not in (1, 8, 16, 32):
        raise InputError(f"impossible (0028,0100) Bits Allocated {allocated}")
    layout = PixelLayout(
        transfer_syntax_uid=intern(header.transfer_syntax_uid),
        offset_bytes=pixels.offset_bytes,
        length_bytes=pixels.length_bytes,
        bits_allocated=allocated,
        bits_stored=min(integer(dataset, "BitsStored") or allocated, allocated),
        signed=integer(dataset, "PixelRepresentation") == 1,
        samples_per_pixel=integer(dataset, "SamplesPerPixel") or 1,
        photometric=intern(text(dataset, "PhotometricInterpretation").upper()),
        frame_count=max(1, integer(dataset, "NumberOfFrames") or 1),
    )
    return layout, _readable_frame_count(layout, pixel_count, header.size_bytes)


def _pixel_count(dataset: Dataset) -> int:
    rows, columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
    if rows < 1 or columns < 1 or rows * columns > MAX_FRAME_PIXELS:
        raise InputError(f"impossible size ((0028,0010) Rows × (0028,0011) Columns = {rows} × {columns})")
    return rows * columns


def _readable_frame_count(layout: PixelLayout, pixel_count: int, size_bytes: int) -> int:
    """Count the frames whose bytes are in the file; of encapsulated ones only their possibility is known."""
    available = size_bytes - layout.offset_bytes
    if layout.length_bytes is None:
        if layout.frame_count * _FRAGMENT_BYTES > available:
            raise InputError(f"claims {layout.frame_count} frames in {available} bytes")
        return layout.frame_count
    # Two pixels share their colour samples (PS3.3 C.7.6.3.1.2).
    samples = 2 if layout.photometric == "YBR_FULL_422" else layout.samples_per_pixel
    readable = min(available, layout.length_bytes) * 8 // (pixel_count * samples * layout.bits_allocated)
    return min(readable, layout.frame_count)


def _frames_of(source: Source, header: Header, layout: PixelLayout, count: int) -> tuple[Frame, ...]:
    """Make the first `count` frames; those of an enhanced object take their own groups, then the shared one."""
    dataset = header.dataset
    shared = items(dataset, "SharedFunctionalGroupsSequence")[:1]
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    base = _frame_base(source, header, layout)
    # Frames of a plain multi-frame object cannot all lie where its header says.
    fallback = dataset if layout.frame_count == 1 else Dataset()

    def frame(index: int) -> Frame:
        groups = (*per_frame[index : index + 1], *shared)

        def macro(keyword: str, otherwise: Dataset = dataset) -> Dataset:
            return next((items(group, keyword)[0] for group in groups if items(group, keyword)), otherwise)

        measures, rescale = macro(_MEASURES), macro(_RESCALE)
        return replace(
            base,
            index=index,
            plane=_plane_of(macro(_PLACE, fallback), macro(_TURN, fallback)),
            pixel_spacing_mm=_spacing_of(measures),
            slice_thickness_mm=number(measures, "SliceThickness") or None,
            rescale_slope=number(rescale, "RescaleSlope") or 1.0,
            rescale_intercept=number(rescale, "RescaleIntercept") or 0.0,
            rescale_unit=_unit_of(dataset, rescale),
            windows=_windows_of(macro(_VOI)),
        )

    return tuple(frame(index) for index in range(count))


def _sop_instance_uid(header: Header) -> str:
    """De-identifiers empty (0008,0018) and forget its copy in the file meta group, (0002,0003)."""
    return text(header.dataset, "SOPInstanceUID") or text(header.meta, "MediaStorageSOPInstanceUID")


def _frame_base(source: Source, header: Header, layout: PixelLayout) -> Frame:
    """Make a frame of what all frames of an instance share."""
    dataset = header.dataset
    return Frame(
        source=source,
        index=0,
        sop_instance_uid=_sop_instance_uid(header),
        sop_class_uid=intern(text(dataset, "SOPClassUID")),
        rows=integer(dataset, "Rows") or 0,
        columns=integer(dataset, "Columns") or 0,
        layout=layout,
        instance_number=integer(dataset, "InstanceNumber"),
        padding_value=_stored_value(dataset, "PixelPaddingValue", layout),
        padding_limit=_stored_value(dataset, "PixelPaddingRangeLimit", layout),
        patient_orientation=texts(dataset, "PatientOrientation"),
        view_position=intern(text(dataset, "ViewPosition").upper()),
        gantry_tilt_degrees=number(dataset, "GantryDetectorTilt"),
        acquisition=intern(f"{text(dataset, 'AcquisitionNumber')} {text(dataset, 'AcquisitionDate')}".strip()),
        acquired_at_s=_seconds(text(dataset, "AcquisitionTime")),
        frame_of_reference_uid=intern(text(dataset, "FrameOfReferenceUID")),
    )


def _plane_of(place: Dataset, turn: Dataset) -> Plane | None:
    """Read where a frame lies; None unless position and two perpendicular unit vectors are there."""
    position, cosines = numbers(place, "ImagePositionPatient"), numbers(turn, "ImageOrientationPatient")
    if len(position) != 3 or len(cosines) != 6:
        return None
    row, column = cosines[:3], cosines[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    if max(abs(length - 1) for length in lengths) > _COSINE_ERROR or abs(float(np.dot(row, column))) > _COSINE_ERROR:
        return None
    return Plane(_vector(position), _vector(row, lengths[0]), _vector(column, lengths[1]))


def _vector(values: Sequence[float], length: float = 1.0) -> Vector:
    x, y, z = values
    return x / length, y / length, z / length


def _spacing_of(measures: Dataset) -> tuple[float, float] | None:
    spacing = numbers(measures, "PixelSpacing")
    return (spacing[0], spacing[1]) if len(spacing) == 2 and min(spacing) > 0 else None


def _unit_of(dataset: Dataset, rescale: Dataset) -> str:
    """Name the unit of rescaled values: "HU" for CT with a rescale that no other type contradicts (PS3.3 C.8.2.1)."""
    named = text(rescale, "RescaleType").upper()
    if text(dataset, "Modality").upper() != "CT":
        return intern(named or text(dataset, "Units").upper())
    is_scout = "LOCALIZER" in (value.upper() for value in texts(dataset, "ImageType"))
    is_rescaled = number(rescale, "RescaleSlope") is not None and number(rescale, "RescaleIntercept") is not None
    return intern(named or "HU") if is_rescaled and not is_scout else ""


def _windows_of(voi: Dataset) -> tuple[Window, ...]:
    """Read the header's windows, leaving out those that no picture can be made with (PS3.3 C.11.2.1.2)."""
    function = text(voi, "VOILUTFunction").upper()
    known = _WINDOW_FUNCTIONS.get(function, "LINEAR")
    narrowest = 1.0 if known == "LINEAR" else math.ulp(0.0)
    names = texts(voi, "WindowCenterWidthExplanation")
    pairs = zip_longest(numbers(voi, "WindowCenter"), numbers(voi, "WindowWidth"), names)
    return tuple(
        Window(center, width, name or "", known)
        for center, width, name in pairs
        if center is not None and width is not None and width >= narrowest
    )


def _stored_value(dataset: Dataset, keyword: str, layout: PixelLayout) -> int | None:
    """Read a stored value; some writers leave a negative one unsigned, or write one for unsigned pixels."""
    value = integer(dataset, keyword)
    if value is None:
        return None
    if layout.signed and value >= 1 << (layout.bits_allocated - 1):
        return value - (1 << layout.bits_allocated)
    return value + (1 << layout.bits_allocated) if value < 0 and not layout.signed else value


def _seconds(time: str) -> float | None:
    """Turn HHMMSS.FFFFFF, cut off anywhere after the hours, into seconds since midnight (PS3.5 6.2, TM)."""
    digits = time.replace(":", "")
    try:
        hours, minutes, seconds = int(digits[:2]), int(digits[2:4] or 0), float(digits[4:] or 0)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds
