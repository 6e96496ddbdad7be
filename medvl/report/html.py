"""Makes the pages: one HTML file per patient and the list of all patients.

A page runs one script, named by its digest, and shows everything but the viewer without it. Only the viewer's
pictures lie beside the page.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvl.errors import InputError
from medvl.files import write_private
from medvl.report.formats import clock, dash, decimal, duration, iso_date, person_name, plain_text, utc_minute
from medvl.report.guidelines import phrase_text
from medvl.report.identity import deidentified
from medvl.report.notes import note_action, note_text
from medvl.report.present import StudyPage, StudyRow, study_pages, study_rows
from medvl.report.review import NAME_CHARACTERS, NOTE_CHARACTERS, OBSERVATION_CHARACTERS
from medvl.report.words import Words, words_of

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_FILE = "index.html"
_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = {
    "patient.html": ("pictures.js", "viewer.js", "review.js"),
    "index.html": ("worklist.js",),
}
_NAMES_SHOWN = 20  # file names listed for one reason


@dataclass(frozen=True, slots=True)
class PatientRows:
    """One patient in the list."""

    folder: str
    entries: list[StudyRow]

    @property
    def study_count(self) -> int:
        """Studies of the patient, unreadable ones included."""
        return len(self.entries)


def write_patient_page(patient_folder: Path, *, deidentify: bool) -> Path:
    """Write <patient>/index.html from every report.json under the patient's folder and return its path.

    Raises InputError if there is no report at all, OutputError if the page cannot be written; one report that
    cannot be read is named on the page.
    """
    entries = study_pages(patient_folder, deidentified if deidentify else lambda document: document)
    if not entries:
        raise InputError(
            f"{patient_folder.name} holds no report.json",
            expected="A patient's folder with one folder per study was expected",
            todo="Run medvl study first",
        )
    readable = next((entry for entry in entries if isinstance(entry, StudyPage)), None)
    words = readable.words if readable else words_of("en")
    # Every study of one folder belongs to one patient; the newest says what the patient is called now.
    patient = readable.document.patient if readable else {"name": "", "key": patient_folder.name}
    return _write(patient_folder / PAGE_FILE, _render("patient.html", words, patient=patient, entries=entries))


def write_index(reports_folder: Path, *, deidentify: bool = False) -> Path:
    """Write reports/index.html, the list of all patients, newest study first, and return its path.

    A report that cannot be read is listed as such. Raises OutputError.
    """
    prepare = deidentified if deidentify else lambda summary: summary
    folders = sorted(path for path in reports_folder.glob("*") if path.is_dir())
    patients = [PatientRows(folder.name, study_rows(folder, prepare)) for folder in folders]
    patients = [patient for patient in patients if patient.entries]
    rows = [(patient, entry) for patient in patients for entry in patient.entries]
    rows.sort(key=lambda row: row[1].summary.study.date if row[1].summary else "", reverse=True)
    language = next((entry.summary.language for _, entry in rows if entry.summary), "en")
    return _write(reports_folder / PAGE_FILE, _render("index.html", words_of(language), patients=patients, rows=rows))


def _write(path: Path, page: str) -> Path:
    write_private(path, page.encode("utf-8", "replace"))
    return path


def _render(template: str, words: Words, **values: object) -> str:
    from markupsafe import Markup

    style, script = _style(words), "".join((_TEMPLATES / name).read_text("utf-8") for name in _SCRIPTS[template])
    return (
        _environment()
        .get_template(template)
        .render(
            words=words,
            style=Markup(style),
            style_digest=_digest(style),
            script=Markup(script),
            script_digest=_digest(script),
            **values,
        )
    )


def _digest(text: str) -> str:
    """Name an inline style or script as a Content-Security-Policy does."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}"


def _style(words: Words) -> str:
    """Return the page's CSS; every printed sheet repeats that it is a draft."""
    rules = (_TEMPLATES / "style.css").read_text("utf-8")
    return f'{rules}@page {{ @bottom-left {{ font: 8pt sans-serif; content: "{words("page_of")}"; }} }}\n'


@cache
def _environment() -> Environment:
    """Build the template engine: everything is escaped, and every text is made plain and bounded on its way out."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["names_shown"] = _NAMES_SHOWN
    environment.globals["limits"] = {
        "name": NAME_CHARACTERS,
        "note": NOTE_CHARACTERS,
        "observation": OBSERVATION_CHARACTERS,
    }
    environment.filters |= {
        "clock": clock,
        "dash": dash,
        "date": iso_date,
        "decimal": decimal,
        "duration": duration,
        "note": note_text,
        "note_action": note_action,
        "numbers_from_one": _numbers_from_one,
        "person": person_name,
        "phrase": phrase_text,
        "rect": _rect,
        "utc": utc_minute,
    }
    return environment


def _shown(value: Any) -> Any:
    # Markup is made by our templates alone; a data URL is base64 and may be long.
    return plain_text(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _numbers_from_one(indices: Sequence[int]) -> str:
    return " + ".join(str(index + 1) for index in indices)


def _rect(box: tuple[float, float, float, float]) -> Any:
    """Write a box as the attributes of an SVG rectangle."""
    from markupsafe import Markup

    x1, y1, x2, y2 = box
    return Markup(f'x="{x1:.4f}" y="{y1:.4f}" width="{max(x2 - x1, 0):.4f}" height="{max(y2 - y1, 0):.4f}"')
