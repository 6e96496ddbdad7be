"""The report as a value: what `report.json` holds and every page and export is made from.

Nothing here knows of HTML, models or DICOM files. The JSON Schema published with medvl is derived from these classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medvl.records import Finding, Patient, PlaneName, ReaderIdentity, Sentence, Severity

ReportStatus = Literal["complete", "partial", "nothing"]  # all read, part of it, or nothing there to read
FORMAT = 1  # raised when a reader of older files would misunderstand newer ones


@dataclass(frozen=True, slots=True)
class ReadIn:
    """One picture that showed a slice to the model."""

    view: str
    chunk: int  # 0-based in the view
    slab: int  # 1-based in the view
    slab_slice_count: int  # slices averaged into the picture


@dataclass(frozen=True, slots=True)
class SliceFate:
    """What became of one frame: read, where; or not read, and why. Exactly one of the two."""

    file: str  # relative to the input
    sop_instance_uid: str
    frame_index: int
    slice: int | None  # number in reading order; None outside a stack
    position_mm: float | None  # along the stack's normal
    read_in: tuple[ReadIn, ...]
    not_read_because: str


@dataclass(frozen=True, slots=True)
class ViewReport:
    """One pass over a stack with one window and prompt."""

    name: str
    windows: tuple[str, ...]  # as labels, "lung WL −600 WW 1500"
    size_px: int
    mm_per_px: float | None
    slab_count: int
    slab_mm: float | None  # thickness averaged into one picture
    chunk_count: int
    chunks_read: int
    prompt: str  # id or file name
    prompt_digest: str
    prompt_reason: str
    contact_sheet: str  # file under images/: evenly spaced pictures as the model saw them; "" when there is none
    problems: tuple[str, ...]  # replies that were cut, repaired or dropped, chunks that failed


@dataclass(frozen=True, slots=True)
class NoteReport:
    """Something unusual about a stack, and what was done about it."""

    code: str
    values: dict[str, float | str]
    text: str  # in English, whatever the report's language; other languages are worded from code and values
    action: str
    severity: Severity = "caution"  # of files written before it was told


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """One series of the study and the fate of every frame found in it."""

    uid: str
    number: int | None
    modality: str
    description: str
    body_part: str
    plane: PlaneName | None
    rows: int
    columns: int
    frame_count: int
    slice_spacing_mm: float | None
    slice_thickness_mm: float | None
    pixel_spacing_mm: tuple[float, float] | None
    chosen: bool
    reason: str  # why it was read or not
    notes: tuple[NoteReport, ...]
    views: tuple[ViewReport, ...]
    slices: tuple[SliceFate, ...]


@dataclass(frozen=True, slots=True)
class KeyImage:
    """A picture of one finding, as the model saw it."""

    finding: int  # Finding.number
    file: str  # under images/
    window: str  # label with WL and WW
    slice: int
    position_mm: float | None
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 as fractions of the picture's side


@dataclass(frozen=True, slots=True)
class Impression:
    """The short conclusion."""

    sentences: tuple[Sentence, ...]
    written_by: Literal["model", "template"]
    note: str = ""  # e.g. why the template was used


@dataclass(frozen=True, slots=True)
class PhraseReport:
    """Something a guideline's answer says: a code, its values, and the words for them."""

    code: str
    values: dict[str, float | str]
    text: str  # in English, whatever the report's language; other languages are worded from code and values


@dataclass(frozen=True, slots=True)
class InputReport:
    """One fact that a guideline's answer rests on."""

    phrase: PhraseReport
    measured: bool  # False: stated by the user


@dataclass(frozen=True, slots=True)
class GuidelineResult:
    """One row of a guideline's table."""

    name: str  # of the category; empty where rows have none
    row: tuple[PhraseReport, ...]
    management: PhraseReport | None


@dataclass(frozen=True, slots=True)
class GuidelineReport:
    """What a guideline says of the study, or why it cannot be applied: results or reasons, never both."""

    code: Literal["lung_rads", "fleischner", "li_rads"]
    finding: int | None  # the one that decided
    results: tuple[GuidelineResult, ...]  # of the measured size first, then those that its error reaches
    modifiers: tuple[str, ...]
    inputs: tuple[InputReport, ...]
    cautions: tuple[PhraseReport, ...]
    reasons: tuple[PhraseReport, ...]  # why it cannot be applied


@dataclass(frozen=True, slots=True)
class UnreadFile:
    """A file of the study that holds nothing to read or cannot be read, and why."""

    file: str
    reason: str
    series_uid: str
    frame_count: int
    lost: bool = False  # an image that should have been read, but is damaged, truncated or out of reach


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall times of one run; left out when two reports are compared."""

    started: str  # ISO 8601, UTC
    finished: str
    seconds: float
    reading_seconds: float  # of the model, earlier runs' finished chunks included
    generated_token_count: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """How the report came to be."""

    medvl_version: str
    reader: ReaderIdentity
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """The study's own header facts."""

    uid: str
    key: str
    date: str  # YYYYMMDD as in the header
    time: str
    description: str
    accession: str


@dataclass(frozen=True, slots=True)
class ReportDocument:
    """Everything one study's report says."""

    format: int
    language: Literal["en", "zh"]
    patient: Patient
    study: StudyFacts
    status: ReportStatus
    warnings: tuple[str, ...]  # shown in red at the top
    impression: Impression
    findings: tuple[Finding, ...]
    key_images: tuple[KeyImage, ...]
    series: tuple[SeriesReport, ...]
    unread_files: tuple[UnreadFile, ...]
    provenance: Provenance
    timing: Timing
    guidelines: tuple[GuidelineReport, ...] = ()
