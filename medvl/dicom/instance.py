"""Turns one file's header into frames, and the facts of its series, study and patient.

Whether a series is worth reading is for `kinds`; where frames lie among each other for `geometry`.
"""

from __future__ import annotations

import math
import re
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
from medvl.dicom.header import BROKEN, Header, read_header
from medvl.dicom.layout import LAYOUT_KEYWORDS, lookup_table, padding_value, palette, read_layout, stored_value
from medvl.dicom.plain import remembered
from medvl.dicom.source import open_source, source_size
from medvl.dicom.suv import SUV_TAGS, SUV_UNIT, Uptake, uptake_of
from medvl.dicom.tables import voi_windows
from medvl.dicom.traits import TRAIT_TAGS, Layers, group_layers, traits_of
from medvl.errors import InputError
from medvl.records import Frame, PixelLayout, Plane, Source, Vector, Window

_COSINE_ERROR = 0.01  # of a length or an angle's cosine; headers round to few digits
_WINDOW_FUNCTIONS: dict[str, Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]] = {
    "LINEAR": "LINEAR",
    "LINEAR_EXACT": "LINEAR_EXACT",
    "SIGMOID": "SIGMOID",
}

_STUDY = "StudyInstanceUID StudyDate StudyTime StudyDescription AccessionNumber"
_PATIENT = "PatientID IssuerOfPatientID PatientName PatientBirthDate PatientSex"
_SERIES = (
    "SeriesInstanceUID SeriesNumber Modality SeriesDescription BodyPartExamined ProtocolName ConvolutionKernel "
    "ImageType Manufacturer ContrastBolusAgent BurnedInAnnotation"
)
_INSTANCE = (
    "SOPClassUID SOPInstanceUID InstanceNumber AcquisitionNumber AcquisitionDate AcquisitionTime FrameOfReferenceUID "
    "PatientOrientation ViewPosition Units"
)
_GEOMETRY = "ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness"
_VALUES = "RescaleSlope RescaleIntercept RescaleType"
_WINDOWS = "WindowCenter WindowWidth WindowCenterWidthExplanation VOILUTFunction"
_GROUPS = "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence"
_TAGS = (
    *TRAIT_TAGS,
    *SUV_TAGS,
    *(
        tag_for_keyword(keyword) or 0
        for part in (_STUDY, _PATIENT, _SERIES, _INSTANCE, _GEOMETRY, _VALUES, _WINDOWS, _GROUPS, LAYOUT_KEYWORDS)
        for keyword in part.split()
    ),
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

    def __hash__(self) -> int:
        return hash(self.uid)  # tells nearly all apart; ten thousand files are looked up by it


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
    corrections: tuple[str, ...] = ()  # (0028,0051) of PET: ATTN, DECY, …

    def __hash__(self) -> int:
        return hash(self.uid)


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


def located(instance: Instance, source: Source) -> Instance:
    """Say that an instance lies elsewhere."""
    frames = tuple(replace(frame, source=source) for frame in instance.frames)
    return replace(instance, source=source, frames=frames)


def _instance_of(source: Source, header: Header) -> Instance:
    dataset = header.dataset
    frames: tuple[Frame, ...] = ()
    frame_count, because = 1, ""
    try:
        layout, readable_count = read_layout(header)
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


@remembered(f"{_STUDY} {_PATIENT}")
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


@remembered(f"{_SERIES} CorrectedImage")
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
        corrections=tuple(value.upper() for value in texts(dataset, "CorrectedImage")),
    )


def _frames_of(source: Source, header: Header, layout: PixelLayout, count: int) -> tuple[Frame, ...]:
    """Make the first `count` frames; those of an enhanced object take their own groups, then the shared one."""
    dataset = header.dataset
    shared = items(dataset, "SharedFunctionalGroupsSequence")[:1]
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    base = _frame_base(source, header, layout)
    voi_tables = voi_windows(lookup_table(dataset, "VOILUTSequence", layout))
    # Frames of a plain multi-frame object cannot all lie where its header says.
    fallback = dataset if layout.frame_count == 1 else Dataset()
    shared_layers = group_layers(shared)
    uptake = uptake_of(dataset) if text(dataset, "Modality").upper() == "PT" else Uptake(None)

    def frame(index: int) -> Frame:
        groups = (*per_frame[index : index + 1], *shared)

        def macro(keyword: str, otherwise: Dataset = dataset) -> Dataset:
            return next((found[0] for group in groups if (found := items(group, keyword))), otherwise)

        measures, rescale = macro(_MEASURES), macro(_RESCALE)
        layers = (*group_layers(groups[:-1] if shared else groups), *shared_layers)
        return replace(
            _acquired(base, layers),
            index=index,
            plane=_plane_of(macro(_PLACE, fallback), macro(_TURN, fallback)),
            pixel_spacing_mm=_spacing_of(measures),
            slice_thickness_mm=number(measures, "SliceThickness") or None,
            rescale_slope=number(rescale, "RescaleSlope") or 1.0,
            rescale_intercept=number(rescale, "RescaleIntercept") or 0.0,
            rescale_unit="" if (wrong := _rescale_flaws(dataset, rescale, layout)) else _unit_of(dataset, rescale),
            windows=_windows_of(macro(_VOI)) or voi_tables,
            flaws=(*wrong, *_spacing_flaws(measures)),
            traits=traits_of(layers, dataset),
        )

    return tuple(_in_suv(frame(index), uptake) for index in range(count))


def _acquired(base: Frame, layers: Layers) -> Frame:
    """Say when a frame of an enhanced object was acquired (PS3.3 C.7.6.16.2.2); others are as their header says."""
    content = next((layer for layer in layers if "FrameAcquisitionDateTime" in layer), Dataset())
    stamp, acquisition = text(content, "FrameAcquisitionDateTime"), text(content, "FrameAcquisitionNumber")
    if not stamp and not acquisition:
        return base
    return replace(
        base,
        acquisition=intern(f"{acquisition} {stamp[:8]}".strip()),
        acquired_at_s=_seconds(re.split("[+-]", stamp[8:])[0]),
    )


def _in_suv(frame: Frame, uptake: Uptake) -> Frame:
    """Let a PET frame's rescaled values be SUVbw where the header has all that it takes; else note what is missing."""
    if uptake.factor is not None and not frame.flaws:
        factor = uptake.factor
        return replace(
            frame,
            rescale_slope=frame.rescale_slope * factor,
            rescale_intercept=frame.rescale_intercept * factor,
            rescale_unit=SUV_UNIT,
            windows=tuple(_scaled(window, factor) for window in frame.windows if window.table is None),
        )
    return replace(frame, flaws=(*frame.flaws, uptake.flaw)) if uptake.flaw else frame


def _scaled(window: Window, factor: float) -> Window:
    """Let a window speak of values in another unit; LINEAR's steps of 1 (PS3.3 C.11.2.1.2.1) are too coarse there."""
    function = "LINEAR_EXACT" if window.function == "LINEAR" else window.function
    return replace(window, center=window.center * factor, width=window.width * factor, function=function)


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
        modality_table=lookup_table(dataset, "ModalityLUTSequence", layout),
        palette=palette(dataset, layout),
        padding_value=padding_value(dataset, layout),
        padding_limit=stored_value(dataset, "PixelPaddingRangeLimit", layout),
        patient_orientation=texts(dataset, "PatientOrientation"),
        view_position=intern(text(dataset, "ViewPosition").upper()),
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
    tables = items(dataset, "ModalityLUTSequence")  # its type stands for the rescale type (PS3.3 C.11.1.1.2)
    named = text(tables[0] if tables else rescale, "ModalityLUTType" if tables else "RescaleType").upper()
    if text(dataset, "Modality").upper() != "CT":
        return intern((named if named != "HU" else "") or text(dataset, "Units").upper())
    is_scout = "LOCALIZER" in (value.upper() for value in texts(dataset, "ImageType"))
    is_rescaled = number(rescale, "RescaleSlope") is not None and number(rescale, "RescaleIntercept") is not None
    return intern(named or "HU") if is_rescaled and not is_scout else ""


def _rescale_flaws(dataset: Dataset, rescale: Dataset, layout: PixelLayout) -> tuple[str, ...]:
    """Name what is wrong with a rescale: a slope of 0, or a CT whose lowest value, air, would be 0 HU or more."""
    slope, intercept = number(rescale, "RescaleSlope"), number(rescale, "RescaleIntercept")
    if slope == 0:
        return ("zero_slope",)
    if text(dataset, "Modality").upper() == "CT" and intercept is not None and intercept >= 0 and not layout.signed:
        return ("unrescaled",)
    return ()


def _spacing_flaws(measures: Dataset) -> tuple[str, ...]:
    spacing = numbers(measures, "PixelSpacing")
    return ("zero_pixel_spacing",) if spacing and min(spacing) <= 0 else ()


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


def _seconds(time: str) -> float | None:
    """Turn HHMMSS.FFFFFF, cut off anywhere after the hours, into seconds since midnight (PS3.5 6.2, TM)."""
    digits = time.replace(":", "")
    try:
        hours, minutes, seconds = int(digits[:2]), int(digits[2:4] or 0), float(digits[4:] or 0)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds
