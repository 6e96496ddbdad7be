"""Words the sentences that rooms below write in English: reasons, notes, warnings and problems.

`words/sentences.json` holds, by code, the English sentence and the same in Chinese. A placeholder says what may stand
there: `{n:number}`; `{why:said}`, a sentence of this table or a note of the gate, and `{view:maybe}`, perhaps one;
`{notes:list}`, several; `{frames:counted}`, a number with its noun; `{side:side}`, a word of that group in the page's
words; or any text. report.json keeps the English sentence, and `recognise` tells its code and values. What the table
does not hold stays as it is: an error of the system, say, or what a model's own file warns of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from string import Formatter

from medvl.records import Note
from medvl.report.document import ReportDocument, SeriesReport
from medvl.report.notes import VALUE_GROUPS
from medvl.report.words import Words, words_of

_TABLE = Path(__file__).parent / "words" / "sentences.json"
_LANGUAGES = ("en", "zh")
_LONGEST = 2000  # characters; a table's sentence is a tenth of that
_NOTE = "note."  # how the codes of the gate's notes begin
_ANY, _WORDS = ".+?", "[\\w -]+?"
_PATTERNS = {"": _ANY, "said": _ANY, "maybe": _ANY, "list": _ANY, "number": r"[\d.,−-]+", "counted": r"\d+ [a-z]+"}


@dataclass(frozen=True, slots=True)
class _Template:
    """One sentence of the table."""

    code: str
    pattern: re.Pattern[str]
    kinds: dict[str, str]  # of the placeholders, by name
    literal_length: int


def recognise(sentence: str) -> Note | None:
    """Tell the code and values of an English sentence that medvl wrote; None for any other text."""
    found = _find(sentence)
    return Note(found[0].code, tuple(found[1].items())) if found else None


def reword(sentence: str, words: Words) -> str:
    """Say an English sentence in the page's language; what the table does not hold is returned as it is."""
    return sentence if words.language == "en" else _reworded(sentence, words.language)


def reword_document(document: ReportDocument) -> ReportDocument:
    """Return a report with every reason, note, warning and problem in its own language."""
    words = words_of(document.language)
    if words.language == "en":
        return document

    def said(sentence: str) -> str:
        return reword(sentence, words)

    return replace(
        document,
        warnings=tuple(map(said, document.warnings)),
        impression=replace(document.impression, note=said(document.impression.note)),
        findings=tuple(replace(each, notes=tuple(map(said, each.notes))) for each in document.findings),
        series=tuple(_reword_series(each, said) for each in document.series),
        unread_files=tuple(replace(each, reason=said(each.reason)) for each in document.unread_files),
    )


def _reword_series(series: SeriesReport, said: Callable[[str], str]) -> SeriesReport:
    return replace(
        series,
        reason=said(series.reason),
        views=tuple(
            replace(view, prompt_reason=said(view.prompt_reason), problems=tuple(map(said, view.problems)))
            for view in series.views
        ),
        slices=tuple(replace(fate, not_read_because=said(fate.not_read_because)) for fate in series.slices),
    )


@lru_cache(maxsize=4096)  # a series gives one reason to hundreds of slices
def _reworded(sentence: str, language: str) -> str:
    found = _find(sentence)
    if found is None:
        return sentence
    template, values = found
    words = words_of(language)
    shown = {name: _shown(value, template.kinds[name], words) for name, value in values.items()}
    return _template_in(template.code, words).format_map({"n": 1, **shown})  # "a single slice" does not spell its 1


@lru_cache(maxsize=4096)
def _find(sentence: str) -> tuple[_Template, dict[str, str]] | None:
    """Find the template that a sentence was made from, the one with most words of its own first, and its values."""
    for template in _templates() if 0 < len(sentence) <= _LONGEST else ():
        match = template.pattern.fullmatch(sentence)
        if match and all(_fits(value, template.kinds[name]) for name, value in match.groupdict().items()):
            return template, match.groupdict()
    return None


def _fits(value: str, kind: str) -> bool:
    parts = _parts(value) if kind == "list" else [value] if kind == "said" else []
    return all(_find(part) for part in parts)


def _parts(value: str) -> list[str]:
    return value.split(_sentences()["between"]["en"])


def _shown(value: str, kind: str, words: Words) -> str:
    if kind in ("said", "maybe"):
        return _reworded(value, words.language)
    if kind == "list":
        return _template_in("between", words).join(_reworded(part, words.language) for part in _parts(value))
    if kind == "counted":
        number, noun = value.split(" ")
        return words(f"count.{noun.removesuffix('s')}", n=int(number))
    known = words.of(kind, value)
    return known if known != value else " ".join(words.of(kind, word) for word in value.split(" "))


# --- the table ---------------------------------------------------------------------------------------------------


@cache
def _sentences() -> dict[str, dict[str, str]]:
    """Load the table: by code, then by language."""
    table = json.loads(_TABLE.read_text("utf-8"))
    return {code: dict(zip(_LANGUAGES, sentences, strict=True)) for code, sentences in table.items()}


def _template_in(code: str, words: Words) -> str:
    entry = words.table[code] if code.startswith(_NOTE) else _sentences()[code][words.language]
    return entry if isinstance(entry, str) else entry["other"]


@cache
def _templates() -> tuple[_Template, ...]:
    """Compile every English sentence, those with most words of their own first."""
    made = [_compiled(code, text) for code, text in _english()]
    worded = [template for template in made if template.literal_length]  # a note may be nothing but its value
    return tuple(sorted(worded, key=lambda template: -template.literal_length))


def _english() -> Iterator[tuple[str, str]]:
    """Yield code and English of each sentence of the table and each note of the gate, one and several apart."""
    for code, sentences in _sentences().items():
        yield code, sentences["en"]
    for key, entry in words_of("en").table.items():
        if key.startswith(_NOTE) and not key.endswith(".action"):
            for text in [entry] if isinstance(entry, str) else entry.values():
                yield key, text


def _compiled(code: str, text: str) -> _Template:
    pattern, kinds, length = "", {}, 0
    for literal, name, kind, _ in Formatter().parse(text):
        pattern, length = pattern + re.escape(literal), length + len(literal)
        if name is not None:
            kinds[name] = kind or (VALUE_GROUPS.get(name, "") if code.startswith(_NOTE) else "")
            pattern += f"(?P<{name}>{_PATTERNS.get(kinds[name], _WORDS)})"
    return _Template(code, re.compile(pattern, re.DOTALL), kinds, length)
