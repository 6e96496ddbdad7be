"""The study that a report was written from: its frames by what findings name, and the identity that its objects carry.

Objects that go back into the study carry the patient and study of its own headers, never those of the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.dataset import Dataset

from medvl.dicom.elements import person, text
from medvl.dicom.geometry import stack_series
from medvl.dicom.header import BROKEN, read_header
from medvl.dicom.plain import tag_of
from medvl.dicom.scan import scan
from medvl.dicom.source import open_source, source_size
from medvl.errors import InputError
from medvl.export.maker import UTF8, discreet
from medvl.records import DisplayTurn, Finding, Frame, PlaneName, Series, Study
from medvl.report.document import ReportDocument
from medvl.text import clean_text

_LONG_STRING, _NAME_GROUP = 64, 64  # longest values (PS3.5 table 6.2-1)
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
_DATES = ("PatientBirthDate", "StudyDate")
_LONG = ("IssuerOfPatientID", "StudyDescription", "InstitutionName", "DeidentificationMethod")
_IDENTIFIERS = ("PatientID", "AccessionNumber", "StudyID")
_NAMES = ("PatientName", "ReferringPhysicianName")
_CODES = {
    "PatientSex": ("M", "F", "O"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "BurnedInAnnotation": ("YES", "NO"),
    "LossyImageCompression": ("00", "01"),
}
# Type 2 in the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): there, though perhaps empty.
_ALWAYS_THERE = (*_DATES, *_IDENTIFIERS, *_NAMES, "PatientSex", "StudyTime")
_READ = (*_UIDS, *_DATES, *_LONG, *_IDENTIFIERS, *_NAMES, *_CODES, "StudyTime", "Modality", "SpecificCharacterSet")


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame, the series it is of, and how it is turned for a reader's eyes."""

    frame: Frame
    series: Series
    plane: PlaneName
    turn: DisplayTurn


class SourceStudy:
    """The study's frames, as a scan of a folder finds them."""

    def __init__(self, study: Study) -> None:
        """study: of one scan; its files must stay where they are."""
        self._study = study
        self._frames = {
            (frame.sop_instance_uid, frame.index): (frame, series) for series in study.series for frame in series.frames
        }
        self._stacks = {series.uid: stack_series(series)[0] for series in study.series}

    @property
    def modality(self) -> str:
        """Of the first series with frames."""
        return next((series.modality for series in self._study.series if series.frames), "")

    def any_frame(self, document: ReportDocument) -> Frame:
        """Return a frame that was read, else any of the study. Raises InputError if there is none."""
        read = ((fate.sop_instance_uid, fate.frame_index) for one in document.series for fate in one.slices)
        for key in (*read, *self._frames):
            if key in self._frames:
                return self._frames[key][0]
        raise InputError("The source holds no image of the report's study", todo="Name the folder that was read")

    def seen(self, finding: Finding) -> Seen:
        """Return the frame that a finding was made on. Raises InputError if the source lacks it."""
        found = self._frames.get((finding.sop_instance_uid, finding.frame_index))
        if found is None:
            raise InputError(
                f"The source lacks the image of finding {finding.number}: (0008,0018) SOP Instance UID "
                f"{clean_text(finding.sop_instance_uid, _LONG_STRING)}",
                expected="The study that the report was written from is needed, whole",
                todo="Name its folder with --source",
            )
        frame, series = found
        for stack in self._stacks[series.uid]:
            if any(each.frame is frame for each in stack.slices):
                return Seen(frame, series, stack.plane, stack.turn)
        return Seen(frame, series, "unknown", DisplayTurn())


def load_source(paths: list[Path], document: ReportDocument) -> SourceStudy:
    """Find the report's study among DICOM files.

    Raises InputError if it is not there, belongs to another patient, or would give a report that was written with
    --deidentify its identity back.
    """
    studies = [study for study in scan(paths).studies if document.study.uid and study.uid == document.study.uid]
    if not studies:
        raise InputError(
            "The source does not hold the report's study: (0020,000D) Study Instance UID "
            f"{clean_text(document.study.uid, _LONG_STRING) or 'is empty'}",
            expected="The study that the report was written from is needed",
            todo="Name its folder with --source",
        )
    own = next((study for study in studies if study.patient.key == document.patient.key), None)
    if own is None:
        raise InputError(
            "The source's study has another patient than the report: (0010,0020) Patient ID differs",
            todo="Run medvl study again on the source as it is now",
        )
    study = SourceStudy(own)
    _check_identity(document, read_identity(study.any_frame(document)))
    return study


@discreet()
def read_identity(frame: Frame) -> Dataset:
    """Read what objects made from a frame carry of its header: patient, study, and what refers to it.

    Values that the standard does not allow are left empty; texts are cleaned and bounded, in UTF-8.
    Raises InputError if the file cannot be read any more, or if an identifier cannot be carried unchanged.
    """
    try:
        with open_source(frame.source) as stream:
            header = read_header(stream, source_size(frame.source), [int(tag_of(keyword)) for keyword in _READ]).dataset
    except (InputError, *BROKEN) as error:
        raise InputError(f"{frame.source.name} cannot be read", todo="Check the source folder") from error
    values = {
        **{keyword: text(header, keyword) for keyword in (*_UIDS, "Modality")},
        **{keyword: _date(text(header, keyword)) for keyword in _DATES},
        **{keyword: clean_text(text(header, keyword), _LONG_STRING) for keyword in _LONG},
        **{keyword: _unchanged(header, keyword) for keyword in _IDENTIFIERS},
        **{keyword: _name(person(header, keyword)) for keyword in _NAMES},
        **{keyword: _one_of(text(header, keyword), allowed) for keyword, allowed in _CODES.items()},
        "StudyTime": _time(text(header, "StudyTime")),
    }
    identity = Dataset()
    identity.SpecificCharacterSet = UTF8
    for keyword, value in values.items():
        if value or keyword in _ALWAYS_THERE:
            setattr(identity, keyword, value)
    if identity.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethod" not in identity:
        identity.DeidentificationMethod = "as in the images of the study"  # they may have it as codes (PS3.3 C.7.1.1)
    return identity


def _check_identity(document: ReportDocument, identity: Dataset) -> None:
    wanted_none = dict(document.provenance.settings).get("deidentify") == "True"
    named = identity.PatientID or identity.PatientName
    if wanted_none and named and identity.get("PatientIdentityRemoved") != "YES":
        raise InputError(
            "The report was written with --deidentify, and the source's headers say who the patient is",
            expected="Objects of a study carry the identity of its headers",
            todo="De-identify the source, or write the report again without --deidentify",
        )


def _unchanged(header: Dataset, keyword: str) -> str:
    """Return an identifier only as it is: a PACS would file a changed one under another patient or order.

    Accession numbers of more than the 16 characters of an SH are common, and the study's images have the same.
    """
    try:
        found = header.get(keyword) or ""
    except BROKEN:
        found = ""
    value = str(found).strip()
    if not isinstance(found, str) or value != clean_text(value, _LONG_STRING):  # no str: there are several
        tag = tag_of(keyword)
        raise InputError(
            f"({tag.group:04X},{tag.element:04X}) {keyword} of the source cannot be carried over unchanged",
            expected=f"At most {_LONG_STRING} printable characters",
            todo="Correct the source's headers",
        )
    return value


def _name(value: str) -> str:
    """Bound each of a name's three groups (PS3.5 6.2)."""
    return "=".join(clean_text(group, _NAME_GROUP) for group in value.split("=")[:3])


def _one_of(value: str, allowed: tuple[str, ...]) -> str:
    return value if value in allowed else ""


def _date(value: str) -> str:
    return value if _is_written_as(value, "%Y%m%d") else ""


def _time(value: str) -> str:
    whole, _, fraction = value.partition(".")
    good = any(_is_written_as(whole, form) for form in ("%H%M%S", "%H%M", "%H"))
    return value if good and (not fraction or (fraction.isdigit() and len(fraction) <= 6)) else ""


def _is_written_as(value: str, form: str) -> bool:
    try:
        return datetime.strptime(value, form).strftime(form) == value
    except ValueError:
        return False
