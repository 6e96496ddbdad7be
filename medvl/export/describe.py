"""What every export says in words: of the report as a whole, and of each finding. In the report's own language."""

from __future__ import annotations

from medvl.report.coverage import coverage_of
from medvl.report.document import ReportDocument
from medvl.report.formats import decimal
from medvl.report.review import JudgedFinding, ReviewedReport, judgement_statements
from medvl.report.words import words_of
from medvl.text import clean_text

TEXT_CHARACTERS = 600  # of one statement; report.json keeps the rest
STATEMENTS = 40  # of one finding or report


def draft_notice(document: ReportDocument) -> str:
    """Say what the report is and is not."""
    words = words_of(document.language)
    return _plain(f"{words('draft')}. {words('draft_banner')}")


def report_statements(reviewed: ReviewedReport) -> tuple[str, ...]:
    """Say what the report is, how much was read, what to beware of, and what the impression is."""
    document = reviewed.document
    words = words_of(document.language)
    frames = sum(series.frame_count for series in document.series)
    read = sum(covered.read_count for covered in coverage_of(document))
    said = [
        words("coverage_total", n=frames, read=read, unread=frames - read),
        *document.warnings,
        *([] if reviewed.findings else [words("no_finding")]),  # not where the reader rejected all of them
        *(sentence.text for sentence in document.impression.sentences),
        document.impression.note,
    ]
    return (draft_notice(document), *_bounded(said))


def finding_statements(judged: JudgedFinding, reviewed: ReviewedReport) -> tuple[str, ...]:
    """Say of a finding what has no field of its own in an export, the model's or the reader's exact words first."""
    language, finding, look = reviewed.document.language, judged.finding, judged.finding.second_look
    words = words_of(language)
    place = ", ".join(part for part in (finding.observation, finding.site) if part)
    verdict = look and words.of("export.verdict", look.verdict)
    said = [
        place,
        finding.description,
        words("export.certainty", certainty=words.of("certainty", finding.certainty)),
        finding.axis_error_mm is not None and words("export.axes", mm=decimal(finding.axis_error_mm)),
        look and words("export.second_look", verdict=verdict, value=f"{look.probability:.2f}"),
        *finding.notes,
        *judgement_statements(judged, reviewed.reader, language),
    ]
    return _bounded([each for each in said if each])


def _bounded(said: list[str]) -> tuple[str, ...]:
    return tuple(plain for plain in map(_plain, said[:STATEMENTS]) if plain)


def _plain(text: str) -> str:
    return clean_text(text, TEXT_CHARACTERS)
