"""Arranges a report for the page's templates: links, pictures as data URLs, totals. No markup is made here."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from medvl.errors import InputError
from medvl.records import Finding
from medvl.report.coverage import ReasonGroup, SeriesCoverage, coverage_of, group_by_reason
from medvl.report.document import KeyImage, ReportDocument, SeriesReport, ViewReport
from medvl.report.formats import age_years, dash, decimal, iso_date, plain_text, whole_mm
from medvl.report.review import REVIEW_FILE, Review, read_review, report_digest
from medvl.report.schema import Summary, read_document, read_summary
from medvl.report.sentences import reword_document
from medvl.report.viewer import Gallery, read_galleries, script_json, viewer_data
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


class Verbatim(str):
    """Text of our own making, base64 or JSON, which the page neither cuts nor cleans nor escapes."""

    def __html__(self) -> str:
        """Tell the template engine that nothing needs escaping."""
        return self


@dataclass(frozen=True, slots=True)
class KeyPicture:
    """One key image with all its figure shows."""

    key: KeyImage
    url: Verbatim
    what: str
    box: tuple[float, float, float, float]
    edges: tuple[tuple[str, str], ...]
    first: bool  # of its finding: the one links lead to


@dataclass(frozen=True, slots=True)
class Fact:
    """One measured or stated value of a finding."""

    name: str
    value: str
    detail: str = ""
    warn: bool = False
    copied: bool = True  # with the report's text


@dataclass(frozen=True, slots=True)
class Sheet:
    """One contact sheet."""

    series: int | None
    view: str
    window: str
    url: Verbatim


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
    galleries: tuple[Gallery, ...] = ()
    folder: str = ""  # the study's, relative to the page
    digest: str = ""  # of report.json as it lies on disk
    review: Review | None = None  # of this very report

    @property
    def data(self) -> Verbatim:
        """What the page's script has to know, as JSON."""
        shown = viewer_data(self.document, self.coverage, self.galleries, self.folder, self.words)
        return Verbatim(script_json(shown | {"report": self.digest, "review": _saved(self.review)}))

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

    def pictures_of(self, finding: Finding) -> tuple[KeyPicture, ...]:
        """Key images of one finding."""
        return tuple(picture for picture in self.key_images if picture.key.finding == finding.number)

    def facts_of(self, finding: Finding) -> tuple[Fact, ...]:
        """What was measured of a finding and how sure the model is; what was not measured is left out."""
        words = self.words
        facts = (
            *_size_facts(finding, words),
            _density_fact(finding, words),
            _side_fact(finding, words),
            Fact(words("slices"), _span(finding), self.series_label(finding) if len(self.views) > 1 else ""),
            _second_look_fact(finding, words),
            Fact(words("certainty"), words.of("certainty", finding.certainty), words("certainty_hint")),
            _confidence_fact(finding, words),
        )
        return tuple(fact for fact in facts if fact)

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


def _size_facts(finding: Finding, words: Words) -> Iterator[Fact]:
    """Axes with their error where they were measured, else the sides of the box."""
    if finding.long_axis_mm is None or finding.short_axis_mm is None:
        sides = (finding.width_mm, finding.height_mm, finding.depth_mm)
        if any(side is not None for side in sides):
            yield Fact(words("size"), " × ".join(map(whole_mm, sides)), words("size_hint"))
        return
    axes = words("axes_value", long=decimal(finding.long_axis_mm), short=decimal(finding.short_axis_mm))
    error = "" if finding.axis_error_mm is None else f" {words('axes_error', error=decimal(finding.axis_error_mm))}"
    said = words("said_mm", mm=decimal(finding.typed_mm)) if _contradicts(finding) else ""
    yield Fact(words("axes"), axes + error, said)
    if finding.depth_mm is not None:
        yield Fact(words("depth"), words("depth_value", mm=decimal(finding.depth_mm)))


def _contradicts(finding: Finding) -> bool:
    """Tell whether the model wrote another size than was measured."""
    if finding.typed_mm is None or finding.long_axis_mm is None:
        return False
    return abs(finding.typed_mm - finding.long_axis_mm) > (finding.axis_error_mm or 0)


def _density_fact(finding: Finding, words: Words) -> Fact | None:
    density = finding.density
    if density is None:
        return None
    spread = words("density_range", low=decimal(density.low_hu, 0), high=decimal(density.high_hu, 0))
    hint = words.of("density", density.hint)
    return Fact(
        words("density"),
        words("density_value", mean=decimal(density.mean_hu, 0)),
        "; ".join(filter(None, (spread, hint))),
    )


def _side_fact(finding: Finding, words: Words) -> Fact:
    contradicted = finding.side_said not in ("none", finding.side)
    said = words("side_said", side=words.of("side", finding.side_said)) if contradicted else ""
    return Fact(words("side"), words.of("side", finding.side), said)


def _span(finding: Finding) -> str:
    last = finding.last_slice
    return str(finding.first_slice) if last == finding.first_slice else f"{finding.first_slice}–{last}"


def _second_look_fact(finding: Finding, words: Words) -> Fact | None:
    look = finding.second_look
    if look is None:
        return None
    verdict = words.of("second_look", look.verdict)
    value = words("second_look_value", value=decimal(look.probability, 2))
    return Fact(words("second_look"), verdict, value, warn=look.verdict == "contradicted")


def _confidence_fact(finding: Finding, words: Words) -> Fact:
    wording = finding.wording_probability
    said = [words("wording", value=decimal(wording, 2))] if wording is not None else []
    detail = "; ".join([*said, words("confidence_hint")])
    return Fact(words("confidence"), decimal(finding.confidence, 2), detail, copied=False)


def study_pages(
    patient_folder: Path, prepare: Callable[[ReportDocument], ReportDocument]
) -> list[StudyPage | BrokenStudy]:
    """Read a patient's studies, newest first, those that cannot be read last. `prepare` is applied to each."""
    return [
        BrokenStudy(anchor, report) if isinstance(report, str) else _study_page(anchor, report, prepare, folder)
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


def _study_page(
    anchor: str, stored: ReportDocument, prepare: Callable[[ReportDocument], ReportDocument], folder: Path
) -> StudyPage:
    document, digest, image_folder = reword_document(prepare(stored)), report_digest(stored), folder / IMAGE_FOLDER
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
        galleries=read_galleries(folder, document),
        folder=quote(folder.name),
        digest=digest,
        review=_review_of(folder, digest),
    )


def _review_of(folder: Path, digest: str) -> Review | None:
    """Read the review that lies beside a report; one of another report, or one that cannot be read, is none."""
    try:
        review = read_review(folder / REVIEW_FILE)
    except InputError:
        return None
    return review if review.report == digest else None


def _saved(review: Review | None) -> dict[str, object] | None:
    """What the page's script keeps of a review, as bounded text."""
    if review is None:
        return None
    findings = {
        number: {"status": each.status, "observation": plain_text(each.observation or ""), "note": each.note or ""}
        for number, each in review.findings.items()
    }
    return {"reader": plain_text(review.reader), "findings": findings}


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


def _data_url(path: Path) -> Verbatim:
    """Return a picture's bytes as a URL; empty when there is no such picture."""
    media_type = _MEDIA_TYPES.get(path.suffix)
    if media_type is None or not path.is_file():
        return Verbatim("")
    return Verbatim(f"data:{media_type};base64,{b64encode(path.read_bytes()).decode('ascii')}")
