"""Writes findings as a DICOM structured report: Comprehensive 3D SR, template TID 1500 (PS3.16).

Each finding is a planar region with its measurements (TID 1410), drawn as a closed line on the image it was seen on.
TID 1410 takes one region, on an image or in space: it is the one on the image, where the model drew it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID

from medvl.errors import InputError
from medvl.export.codes import LATERALITY, MIDLINE, OWN_SCHEME, SNOMED, Coded, code_words
from medvl.export.describe import finding_statements, report_statements
from medvl.export.maker import creation, discreet, stamp
from medvl.export.measures import measures_of
from medvl.export.source import SourceStudy, read_identity
from medvl.export.uids import device_uid, export_uid, tracking_uid, written_at
from medvl.records import Finding, Frame
from medvl.report.document import ReportDocument
from medvl.report.review import JudgedFinding, ReviewedReport
from medvl.text import clean_text

SERIES_NUMBER = 9900  # far above what scanners give
_LONG_STRING = 64
_UNITS = {"mm": codes.UCUM.Millimeter, "[hnsf'U]": codes.UCUM.HounsfieldUnit}
# PS3.16 CID 100; of other modalities no more is said than that images were made.
_PROCEDURES = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "PT": Code("44136-0", "LN", "PET unspecified body region"),
    **dict.fromkeys(("CR", "DX"), Code("43468-8", "LN", "XR unspecified body region")),
}
_ANY_PROCEDURE = Code("363679005", SNOMED, "Imaging procedure")
_LANGUAGES = {
    "en": sr.CodedConcept("en", "RFC5646", "English"),
    "zh": sr.CodedConcept("zh", "RFC5646", "Chinese"),
}
_SLICES_READ = Code("SLICES-READ", OWN_SCHEME, "Slices read")


@discreet()
def structured_report(reviewed: ReviewedReport, source: SourceStudy) -> Dataset:
    """Make the SR of a report, in the study it was written from.

    It is PARTIAL where the study was, VERIFIED where `ReviewedReport.verified` says so, else UNVERIFIED.
    Raises InputError if the source lacks an image that a finding was seen on, or if that image is of a private or
    retired kind.
    """
    frames = {each.finding.number: source.seen(each.finding).frame for each in reviewed.kept}
    document = reviewed.document
    evidence = _evidence([*frames.values(), *([] if frames else [source.any_frame(document)])])
    report = sr.Comprehensive3DSR(
        evidence=evidence,  # made first: it checks that the images can be referred to
        content=_content(reviewed, frames, source.modality)[0],
        series_number=SERIES_NUMBER,
        series_instance_uid=export_uid(reviewed, "structured report series"),
        sop_instance_uid=export_uid(reviewed, "structured report"),
        instance_number=1,
        is_complete=document.status == "complete",
        is_final=reviewed.verified,
        coding_schemes=[CodingSchemeIdentificationItem(OWN_SCHEME, name="medvl")],
        **creation(document),
    )
    stamp(report, document, evidence[0])
    if reviewed.verified:
        _verify(report, reviewed, evidence[0])
    return report


def region_of(box_stored_px: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Draw a box as a closed line in an image's coordinates.

    box_stored_px: column and row of two opposite corners, 0 at the centre of the first pixel.
    Returns (5, 2) of column and row, 0 at that pixel's upper left corner, the first point again last.
    Source: PS3.3 C.18.6.1, Graphic Data.
    """
    x1, y1, x2, y2 = (value + 0.5 for value in box_stored_px)
    left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]])


def _evidence(frames: Sequence[Frame]) -> list[Dataset]:
    files = {frame.sop_instance_uid: frame for frame in frames}
    for frame in files.values():
        kind = UID(frame.sop_class_uid)
        if kind.is_private or kind.is_retired:
            raise InputError(
                f"{frame.source.name} has (0008,0016) SOP Class UID {kind}, which is private or retired",
                expected="A structured report refers to images of today's standard",
                todo="Export key-images or fhir instead",
            )
    return [read_identity(frame) for frame in files.values()]


# --- content -----------------------------------------------------------------------------------------------------


def _content(reviewed: ReviewedReport, frames: dict[int, Frame], modality: str) -> sr.MeasurementReport:
    document = reviewed.document
    groups = [_finding_group(each, reviewed, frames[each.finding.number]) for each in reviewed.kept]
    content = sr.MeasurementReport(
        observation_context=_observers(reviewed),
        procedure_reported=_PROCEDURES.get(modality, _ANY_PROCEDURE),
        imaging_measurements=groups or [_nothing_found(reviewed)],
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(_LANGUAGES[document.language]),
    )
    content[0].ContentSequence.extend(_comments(report_statements(reviewed)))
    return content


def _finding_group(
    judged: JudgedFinding, reviewed: ReviewedReport, frame: Frame
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    finding = judged.finding
    site = _site(finding)
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=tracking_uid(reviewed, finding.number), identifier=f"medvl finding {finding.number}"
        ),
        referenced_region=_region(finding, frame),
        finding_type=_code(code_words("findings", finding.observation)) or codes.SCT.Finding,
        finding_sites=None if site is None else [site],
        algorithm_id=_algorithm(reviewed.document),
        measurements=[
            sr.Measurement(
                name=_coded(each.name),
                value=each.value,
                unit=_UNITS[each.unit],
                derivation=_code(each.derivation),
            )
            for each in measures_of(finding)
        ],
    )
    group[0].ContentSequence.extend(_comments(finding_statements(judged, reviewed)))
    return group


def _nothing_found(reviewed: ReviewedReport) -> sr.MeasurementsAndQualitativeEvaluations:
    """A template that wants a measurement at least gets the one there is: how many slices were read."""
    series = reviewed.document.series
    read = sum(1 for one in series for fate in one.slices if fate.read_in)
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=export_uid(reviewed, "structured report coverage"), identifier="medvl coverage"
        ),
        algorithm_id=_algorithm(reviewed.document),
        measurements=[sr.Measurement(name=_SLICES_READ, value=read, unit=codes.UCUM.NoUnits)],
    )


def _region(finding: Finding, frame: Frame) -> sr.ImageRegion:
    numbers = [frame.index + 1] if frame.layout.frame_count > 1 else None
    image = sr.SourceImageForRegion(frame.sop_class_uid, frame.sop_instance_uid, numbers)
    return sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, region_of(finding.box_stored_px), image)


def _site(finding: Finding) -> sr.FindingSite | None:
    site = code_words("sites", finding.site)
    if site is None:
        return None
    midline = MIDLINE if finding.side == "midline" else None
    return sr.FindingSite(_coded(site), _code(LATERALITY.get(finding.side)), _code(midline))


def _observers(reviewed: ReviewedReport) -> sr.ObservationContext:
    maker = reviewed.document.provenance
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid(reviewed.document),
        name="medvl",
        manufacturer_name="medvl",
        model_name=clean_text(maker.reader.model, _LONG_STRING) or "not stated",
    )
    return sr.ObservationContext(
        observer_person_context=_person(reviewed.reader) if reviewed.reader else None,
        observer_device_context=sr.ObserverContext(codes.DCM.Device, device),
    )


def _person(reader: str) -> sr.ObserverContext:
    return sr.ObserverContext(codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(name=person_name(reader)))


def _algorithm(document: ReportDocument) -> sr.AlgorithmIdentification:
    reader = document.provenance.reader
    facts = {
        "model": reader.model,
        "fingerprint": reader.fingerprint,
        "precision": reader.precision,
        "generation": reader.generation,
    }
    return sr.AlgorithmIdentification(
        name="medvl",
        version=clean_text(document.provenance.medvl_version, _LONG_STRING) or "not stated",
        parameters=[f"{name}: {clean_text(value, 200)}" for name, value in facts.items()],
    )


def _comments(statements: Sequence[str]) -> Iterator[sr.TextContentItem]:
    for statement in statements:
        yield sr.TextContentItem(codes.DCM.Comment, statement, sr.RelationshipTypeValues.CONTAINS)


def _coded(coded: Coded) -> Code:
    return Code(coded.value, coded.scheme, coded.meaning)


def _code(coded: Coded | None) -> Code | None:
    return None if coded is None else _coded(coded)


# --- who stands for it -------------------------------------------------------------------------------------------


def _verify(report: Dataset, reviewed: ReviewedReport, identity: Dataset) -> None:
    """Name the person who judged every finding (PS3.3 C.17.2)."""
    observer = Dataset()
    observer.VerifyingObserverName = person_name(reviewed.reader)
    observer.VerifyingOrganization = identity.get("InstitutionName") or "not stated"
    moment = reviewed.saved or written_at(reviewed.document)
    observer.VerificationDateTime = moment.strftime("%Y%m%d%H%M%S+0000")
    observer.VerifyingObserverIdentificationCodeSequence = []
    report.VerificationFlag = "VERIFIED"
    report.VerifyingObserverSequence = [observer]


def person_name(name: str) -> str:
    """Write a name as DICOM does; one that is not in parts already is kept whole (PS3.5 6.2.1.2)."""
    plain = name.replace("\\", " ").replace("=", " ")
    return plain if "^" in plain else f"{plain}^"
