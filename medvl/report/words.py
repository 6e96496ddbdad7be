"""The words of the page, one table per language, kept as data so that a translator needs no code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent / "words"


@dataclass(frozen=True, slots=True)
class Words:
    """One language's table. An entry with "one" and "other" is chosen by the value `n`."""

    language: str
    table: dict[str, str | dict[str, str]]

    def __call__(self, key: str, /, **values: object) -> str:
        """Return the entry with its placeholders filled. Raises KeyError for a key or value that is missing."""
        entry = self.table[key]
        text = entry if isinstance(entry, str) else entry["one" if values["n"] == 1 else "other"]
        return text.format_map(values)

    def of(self, group: str, value: str) -> str:
        """Return the word for one of a fixed set of values, or the value itself when the set does not hold it."""
        entry = self.table.get(f"{group}.{value}", value)
        return entry if isinstance(entry, str) else value


@cache
def words_of(language: str) -> Words:
    """Load a language's table, once."""
    return Words(language, json.loads((_FOLDER / f"{language}.json").read_text("utf-8")))
