"""What a person said of a draft's findings: read from review.json, and applied to the report.

The page writes review.json and every export takes it in here, so that they cannot differ. Nothing is judged by default:
a finding that the file does not name is not judged, and keeps its words.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medvl.errors import InputError
from medvl.records import Finding
from medvl.report.document import Impression, ReportDocument
from medvl.report.schema import document_json
from medvl.report.words import Words, words_of
from medvl.settings import Language
from medvl.text import clean_text, counted

if TYPE_CHECKING:
    from pydantic import TypeAdapter

REVIEW_FILE = "review.json"  # beside report.json
FORMAT = 1
Status = Literal["accepted", "rejected", "edited"]
MAX_BYTES = 4 * 1024**2  # of a review; a thousand findings with a page of notes each stay below
NAME_CHARACTERS = 62  # a DICOM person name has 64 (PS3.5 6.2), and a caret may be added
OBSERVATION_CHARACTERS = 200
NOTE_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the reader said of one finding. observation: the reader's own words, for an edited one."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    status: Status
    observation: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """A review.json.

    findings: by number. report: `report_digest` of what was reviewed; "" where the page did not keep it.
    saved: when; None where the page did not say, and `read_review` takes the time of the file.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    format: Literal[1]
    study_uid: str
    reader: str = ""
    findings: dict[int, Judgement] = field(default_factory=dict)
    report: str = ""
    saved: datetime | None = None


@dataclass(frozen=True, slots=True)
class JudgedFinding:
    """A finding with the reader's words in it, and what the reader said. status "": not judged."""

    finding: Finding
    status: Status | Literal[""] = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class ReviewedReport:
    """A report with a person's review in it.

    document: edited findings in the reader's words, with what the reader said among their notes; rejected ones left
    out, and so are their pictures and the sentences of the impression that spoke of either, which its note tells.
    findings: every one of the draft, rejected ones included, with the draft's own notes.
    """

    document: ReportDocument
    findings: tuple[JudgedFinding, ...]
    draft_digest: str  # of the report before the review
    reader: str = ""
    saved: datetime | None = None  # UTC; when the review was saved

    @property
    def kept(self) -> tuple[JudgedFinding, ...]:
        """The findings that stand."""
        return tuple(each for each in self.findings if each.status != "rejected")

    @property
    def verified(self) -> bool:
        """Whether a person who gave a name has judged every finding of a study that was read as a whole."""
        judged = all(each.status for each in self.findings)
        return bool(self.reader) and judged and self.document.status == "complete"

    @property
    def digest(self) -> str:
        """A digest of all that an export tells: of the report and of the review."""
        said = [(each.finding.number, each.status, each.note) for each in self.findings]
        content = document_json(self.document) + repr((self.draft_digest, self.reader, self.saved, said)).encode()
        return hashlib.sha256(content).hexdigest()


def report_digest(document: ReportDocument) -> str:
    """Digest a report, so that a review can say what it is of. Returns 64 hexadecimal digits."""
    return hashlib.sha256(document_json(document)).hexdigest()


def read_review(path: Path) -> Review:
    """Read and validate a review.json. Raises InputError if it is missing, damaged, too long or of another format."""
    from pydantic import ValidationError

    try:
        if path.stat().st_size > MAX_BYTES:
            raise _unusable(path, f"it is longer than {MAX_BYTES} bytes")
        review = _adapter().validate_json(path.read_bytes())
        saved = review.saved or datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
        return replace(review, saved=saved if saved.tzinfo else saved.replace(tzinfo=UTC))
    except OSError as error:
        raise _unusable(path, error.strerror or "it cannot be read") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = clean_text(".".join(map(str, first["loc"])), 100)
        raise _unusable(path, f"{place}: {first['msg']}" if place else first["msg"]) from error


def apply_review(document: ReportDocument, review: Review | None) -> ReviewedReport:
    """Put a person's judgements into a report. None: nobody has judged it.

    Raises InputError if the review is of another study or report, names a finding that is not there, or edits one
    without words.
    """
    if review is None:
        unjudged = tuple(JudgedFinding(finding) for finding in document.findings)
        return ReviewedReport(document, unjudged, report_digest(document))
    _check_same_report(document, review)
    judged = tuple(_judged(finding, review.findings) for finding in document.findings)
    reader = clean_text(review.reader, NAME_CHARACTERS)
    saved = review.saved and review.saved.astimezone(UTC)
    return ReviewedReport(_with_judgements(document, judged, reader), judged, report_digest(document), reader, saved)


def _check_same_report(document: ReportDocument, review: Review) -> None:
    todo = "Open the report's page again and save the review from there"
    if review.study_uid != document.study.uid:
        raise InputError("The review is of another study", expected="One of this report's study is needed", todo=todo)
    if review.report and review.report != report_digest(document):
        raise InputError(
            "The study was read again after the review, so that its numbers may mean other findings", todo=todo
        )
    unknown = sorted(review.findings.keys() - {finding.number for finding in document.findings})
    if unknown:
        raise InputError(
            f"The review judges finding {unknown[0]}",
            expected=f"The report has {counted(len(document.findings), 'finding')}",
            todo=todo,
        )


def _judged(finding: Finding, judgements: Mapping[int, Judgement]) -> JudgedFinding:
    judgement = judgements.get(finding.number)
    if judgement is None:
        return JudgedFinding(finding)
    if judgement.status == "edited":
        words = clean_text(judgement.observation or "", OBSERVATION_CHARACTERS)
        if not words:
            raise InputError(
                f"The review edits finding {finding.number} but does not say how",
                expected="An edited finding has an observation in the reader's words",
                todo="Write one, or accept or reject the finding",
            )
        finding = replace(finding, observation=words)
    return JudgedFinding(finding, judgement.status, clean_text(judgement.note or "", NOTE_CHARACTERS))


def judgement_statements(judged: JudgedFinding, reader: str, language: Language) -> tuple[str, ...]:
    """Say in the report's language what a person said of a finding. Empty: nothing."""
    words = words_of(language)
    who = reader or words("reviewed.someone")
    said = words(f"reviewed.{judged.status}", reader=who) if judged.status in ("accepted", "edited") else ""
    note = words("reviewed.note", reader=who, note=judged.note) if judged.note else ""
    return tuple(filter(None, (said, note)))


def _with_judgements(document: ReportDocument, judged: tuple[JudgedFinding, ...], reader: str) -> ReportDocument:
    kept = tuple(_with_notes(each, reader, document.language) for each in judged if each.status != "rejected")
    numbers = {finding.number for finding in kept}
    return replace(
        document,
        findings=kept,
        key_images=tuple(image for image in document.key_images if image.finding in numbers),
        impression=_reviewed(document.impression, judged, reader, words_of(document.language)),
    )


def _with_notes(judged: JudgedFinding, reader: str, language: Language) -> Finding:
    said = judgement_statements(judged, reader, language)
    return replace(judged.finding, notes=(*judged.finding.notes, *said))


def _reviewed(impression: Impression, judged: tuple[JudgedFinding, ...], reader: str, words: Words) -> Impression:
    """Leave out what was said of findings that the reader changed: a count or a largest size may be wrong now."""
    changed = {each.finding.number for each in judged if each.status in ("rejected", "edited")}
    counts = Counter(each.status or "open" for each in judged)
    told = {status: counts[status] for status in ("accepted", "edited", "rejected", "open")}
    summary = words("reviewed.summary", reader=reader or words("reviewed.someone"), **told)
    left = tuple(each for each in impression.sentences if not changed.intersection(each.findings))
    return replace(impression, sentences=left, note=" ".join(filter(None, (impression.note, summary))))


def _unusable(path: Path, why: str) -> InputError:
    return InputError(
        f"{path.name} cannot be used: {why}",
        expected="A review that the report's page has saved is needed",
        todo="Save it again from the page, or name another with --review",
    )


@cache
def _adapter() -> TypeAdapter[Review]:
    from pydantic import TypeAdapter

    return TypeAdapter(Review)
