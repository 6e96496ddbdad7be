"""Words the gate's notes: a code and its numbers become a sentence, and what medvl does about it, in any language."""

from __future__ import annotations

from medvl.dicom.severity import reason_for, severity
from medvl.records import Note
from medvl.report.document import NoteReport
from medvl.report.formats import decimal
from medvl.report.words import Words, words_of

VALUE_GROUPS = {"plane": "plane", "tag": "region", "word": "region"}  # values with words of their own


def report_note(note: Note) -> NoteReport:
    """Turn a note into what report.json holds: code, values and the English sentences."""
    words = words_of("en")
    text, action = note_text(note, words), note_action(note, words)
    return NoteReport(note.code, dict(note.values), text, action, severity(note.code))


def note_text(note: Note | NoteReport, words: Words) -> str:
    """Say what was found, without a full stop."""
    return words(f"note.{note.code}", **_shown(note, words))


def note_action(note: Note | NoteReport, words: Words) -> str:
    """Say what medvl does about it, without a full stop."""
    return words(f"note.{note.code}.action", **_shown(note, words))


def notes_table() -> str:
    """Write every code with its words and its severity as a Markdown table, for the documentation."""
    table = words_of("en").table
    codes = [key.split(".")[1] for key in table if key.startswith("note.") and key.endswith(".action")]
    rows = (
        f"| `{code}` | {_template(table[f'note.{code}'])} | {_template(table[f'note.{code}.action'])} "
        f"| {severity(code)}: {reason_for(code)} |"
        for code in codes
    )
    return "\n".join(("| code | what was found | what medvl does | severity |", "|---|---|---|---|", *rows))


def _template(entry: str | dict[str, str]) -> str:
    """Show an entry with its placeholders as they stand."""
    return (entry if isinstance(entry, str) else entry["other"]).replace("{", "*").replace("}", "*")


def _shown(note: Note | NoteReport, words: Words) -> dict[str, object]:
    values = dict(note.values).items()
    return {
        name: words.of(VALUE_GROUPS.get(name, ""), value) if isinstance(value, str) else _number(value)
        for name, value in values
    }


def _number(value: float) -> int | str:
    """Write a count as it is, for the choice of a plural; anything else with two decimals at most."""
    return int(value) if value == int(value) else decimal(value, 2)
