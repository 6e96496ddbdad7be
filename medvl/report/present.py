"""Arranges a report for the page's templates: links, pictures as data URLs, totals. No markup is made here."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from medvl.errors import InputError
from medvl.records import Finding
from medvl.report.coverage import ReasonGroup, SeriesCoverage, coverage_of, group_by_reason
from medvl.report.document import KeyImage, ReportDocument, SeriesReport, ViewReport
from medvl.report.formats import age_years, dash, iso_date
from medvl.report.schema import Summary, read_document, read_summary
from medvl.report.words import Words, words_of
from medvl.report.write import IMAGE_FOLDER, REPORT_FILE

_MEDIA_TYPES = {".webp": "image/webp", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}

# The patient's directions at a picture's edges in radiological display, which medvl turns these planes into.
_EDGES = {
    "axial": {"left": "R", "right": "L", "top": "A", "bottom": "P"},
    "coronal": {"left": "R", "right": "L", "top": "S", "bottom": "I"},
    "sagittal": {"left": "A", "right": "P", "top": "S", "bottom": "I"},
}

Kind = TypeVar("Kind", ReportDocument, Summary)


class DataUrl(str):
    """A picture inside the page: base64 of our own making, so it is neither cut nor cleaned nor escaped like text."""

    def __html__(self) -> str:
        """Tell the template engine that nothing needs escaping."""
        return self


@dataclass(frozen=True, slots=True)
class KeyPicture:
    """One key image with all its figure shows."""

    key: KeyImage
    url: DataUrl
    what: str
    box: tuple[float, float, float, float]
    edges: tuple[tuple[str, str], ...]
    first: bool  # of its finding: the one links lead to


@dataclass(frozen=True, slots=True)
class Sheet:
    """One contact sheet."""

    series: int | None
    view: str
    window: str
    url: DataUrl


@dataclass(frozen=True, slots=True)
class StudyPage:
    """One study as the page shows it."""

    anchor: str
    document: ReportDocument
    words: Words
    coverage: tuple[SeriesCoverage, ...]
    unread_files: tuple[ReasonGroup, ...]  # that hold nothing to read
    lost_files: tuple[ReasonGroup, ...]  # that should have been read
    key_images: tuple[KeyPicture, ...]
    sheets: tuple[Sheet, ...]

    @property
    def shown(self) -> frozenset[int]:
        """Numbers of the findings that have a key image."""
        return frozenset(image.key.finding for image in self.key_images)

    @property
    def views(self) -> tuple[tuple[SeriesReport, ViewReport], ...]:
        """Every view with its series."""
        return tuple((series, view) for series in self.document.series for view in series.views)

    @property
    def chunk_count(self) -> int:
        """Chunks the study was planned in."""
        return sum(view.chunk_count for _, view in self.views)

    @property
    def chunks_read(self) -> int:
        """Chunks the model has answered."""
        return sum(view.chunks_read for _, view in self.views)

    @property
    def frame_count(self) -> int:
        """Frames found in the study's series, those of damaged files included."""
        lost = sum(group.count for group in self.lost_files)
        return lost + sum(len(series.slices) for series in self.document.series)

    @property
    def read_count(self) -> int:
        """Frames the model saw at least once."""
        return sum(covered.read_count for covered in self.coverage)

    @property
    def series_read(self) -> str:
        """The series the model looked at, in a few words."""
        chosen = [series for series in self.document.series if series.chosen]
        named = {series.uid: f"{dash(series.number)} {series.description}".strip() for series in chosen}
        return "; ".join(named.values())  # a series of several stacks once

    @property
    def born(self) -> str:
        """Birth date and the age at the study."""
        birth_date = self.document.patient.birth_date
        age = age_years(birth_date, self.document.study.date)
        return iso_date(birth_date) + ("" if age is None else f" ({self.words('age', n=age)})")

    def series_label(self, finding: Finding) -> str:
        """Say in which series and view a finding was seen."""
        numbers = {series.uid: series.number for series in self.document.series}
        return f"{self.words('series_name', number=dash(numbers.get(finding.series_uid)))} · {finding.view}"


@dataclass(frozen=True, slots=True)
class BrokenStudy:
    """A study folder whose report cannot be read."""

    anchor: str
    problem: str
    document: None = None


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One study in the list of patients."""

    anchor: str
    summary: Summary | None
    problem: str = ""


def study_pages(
    patient_folder: Path, prepare: Callable[[ReportDocument], ReportDocument]
) -> list[StudyPage | BrokenStudy]:
    """Read a patient's studies, newest first, those that cannot be read last. `prepare` is applied to each."""
    return [
        BrokenStudy(anchor, report)
        if isinstance(report, str)
        else _study_page(anchor, prepare(report), folder / IMAGE_FOLDER)
        for anchor, folder, report in _studies(patient_folder, read_document)
    ]


def study_rows(patient_folder: Path, prepare: Callable[[Summary], Summary]) -> list[StudyRow]:
    """Read what the list of patients shows, in the order and with the anchors of the patient's page."""
    return [
        StudyRow(anchor, None, report) if isinstance(report, str) else StudyRow(anchor, prepare(report))
        for anchor, _, report in _studies(patient_folder, read_summary)
    ]


def _studies(patient_folder: Path, read: Callable[[Path], Kind]) -> Iterator[tuple[str, Path, Kind | str]]:
    """Yield anchor, folder and report, or the sentence why there is none."""
    readable: list[tuple[Path, Kind]] = []
    broken: list[tuple[Path, str]] = []
    for path in sorted(patient_folder.glob(f"*/{REPORT_FILE}")):
        try:
            readable.append((path.parent, read(path)))
        except InputError as error:
            broken.append((path.parent, str(error)))
    readable.sort(key=lambda entry: (entry[1].study.date, entry[1].study.time), reverse=True)
    for number, (folder, report) in enumerate(readable, start=1):
        yield f"s{number}", folder, report
    for number, (folder, problem) in enumerate(broken, start=len(readable) + 1):
        yield f"s{number}", folder, problem


def _study_page(anchor: str, document: ReportDocument, image_folder: Path) -> StudyPage:
    return StudyPage(
        anchor=anchor,
        document=document,
        words=words_of(document.language),
        coverage=coverage_of(document),
        unread_files=_unread_files(document, lost=False),
        lost_files=_unread_files(document, lost=True),
        key_images=tuple(_key_pictures(document, image_folder)),
        sheets=tuple(
            Sheet(
                series.number,
                view.name,
                ", ".join(view.windows),
                _data_url(image_folder / Path(view.contact_sheet).name),
            )
            for series in document.series
            for view in series.views
            if view.contact_sheet
        ),
    )


def _unread_files(document: ReportDocument, *, lost: bool) -> tuple[ReasonGroup, ...]:
    files = (file for file in document.unread_files if file.lost is lost)
    return group_by_reason((file.file, file.reason, file.frame_count) for file in files)


def _key_pictures(document: ReportDocument, image_folder: Path) -> Iterator[KeyPicture]:
    findings = {finding.number: finding for finding in document.findings}
    # By view, since a series of several stacks may hold several planes.
    planes = {(series.uid, view.name): series.plane for series in document.series for view in series.views}
    seen: set[int] = set()
    for key in document.key_images:
        finding = findings.get(key.finding)
        if finding is None:
            continue
        yield KeyPicture(
            key=key,
            url=_data_url(image_folder / Path(key.file).name),
            what=" · ".join(part for part in (finding.observation, finding.site) if part),
            box=key.box,
            edges=tuple(_EDGES.get(planes.get((finding.series_uid, finding.view)) or "", {}).items()),
            first=key.finding not in seen,
        )
        seen.add(key.finding)


def _data_url(path: Path) -> DataUrl:
    """Return a picture's bytes as a URL; empty when there is no such picture."""
    media_type = _MEDIA_TYPES.get(path.suffix)
    if media_type is None or not path.is_file():
        return DataUrl("")
    return DataUrl(f"data:{media_type};base64,{b64encode(path.read_bytes()).decode('ascii')}")
