"""Takes identity out of a report."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from medvl.records import Patient
from medvl.report.document import ReportDocument, StudyFacts
from medvl.report.formats import iso_date
from medvl.report.schema import Summary

REMOVED = "[removed]"
# Values that link findings to pixels or name one of a fixed set of choices; never free text.
_KEPT = {
    "key",
    "uid",
    "series_uid",
    "sop_instance_uid",
    "side",
    "side_said",
    "certainty",
    "plane",
    "status",
    "language",
    "code",
}
_KEPT |= {"written_by", "fingerprint", "prompt_digest", "versions"}

Report = TypeVar("Report", ReportDocument, Summary)


def deidentified(report: Report) -> Report:
    """Return the report without name, ID, birth date, accession number, times and exact dates (the year stays).

    The same values are also taken out of every free text: descriptions, file names, replies. Sex stays, and so do
    UIDs, which tie findings to slices (PS3.15 Annex E, Retain UIDs); a UID made from a date still holds it.
    """
    stripped: Report = _strip(report, _secrets(report.patient, report.study))
    return stripped


def _secrets(patient: Patient, study: StudyFacts) -> re.Pattern[str]:
    """Build the pattern of every spelling to remove, the longest first."""
    words = {patient.id, study.accession}
    for date in (patient.birth_date, study.date):
        words |= {date, iso_date(date)}
    for group in patient.name.split("="):
        parts = [part for part in re.split(r"[\^\s,]+", group) if part]
        words |= {*parts, "".join(parts), "".join(reversed(parts))}
    spellings = [_spelling(word) for word in sorted(words, key=len, reverse=True)]
    return re.compile("|".join(filter(None, spellings)) or r"(?!)", re.IGNORECASE)


def _spelling(word: str) -> str:
    """Match whole words only in scripts that separate them; too short a word is nobody's name."""
    if word.isascii():
        return rf"(?<![^\W_]){re.escape(word)}(?![^\W_])" if len(word) > 2 else ""
    return re.escape(word) if len(word) > 1 else ""


def _strip(value: Any, secrets: re.Pattern[str]) -> Any:
    match value:
        case str():
            return secrets.sub(REMOVED, value)
        case tuple():
            return tuple(_strip(item, secrets) for item in value)
        case dict():
            return {key: _strip(item, secrets) for key, item in value.items()}
        case Patient():
            return Patient(sex=value.sex, key=value.key)
        case StudyFacts():
            description = _strip(value.description, secrets)
            return replace(value, date=value.date[:4], time="", accession="", description=description)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    names = [field.name for field in fields(value) if field.name not in _KEPT]
    return replace(value, **{name: _strip(getattr(value, name), secrets) for name in names})
