"""What can be saved of a reply that ought to be JSON: the complete objects of one list.

It looks for objects one by one, so that markup around the JSON, a reply cut by the token cap or one broken object
costs no more than itself. It knows nothing of findings.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

_MAX_CHARACTERS = 100_000  # far beyond any token cap; a server's reply may still be anything
_MAX_BROKEN = 50  # each broken object may be searched to the end of the text
_DECODER = json.JSONDecoder(strict=False)  # a raw line break inside a string is no reason to lose a finding


class Item(NamedTuple):
    """One complete object and where it stands in the reply."""

    value: dict[str, Any]
    after: int  # where the list could have ended instead: behind "[" or the object before, if that was whole
    start: int  # of "{"
    end: int  # behind "}"


@dataclass(frozen=True, slots=True)
class Recovered:
    """The complete objects of a reply. found: False where there was neither an object nor a closed, empty list."""

    items: tuple[Item, ...]
    found: bool
    problems: tuple[str, ...] = ()


def recover_items(text: str, key: str, fields: frozenset[str]) -> Recovered:
    """Recover from a reply the objects listed under `key` that have at least one of the `fields`.

    Works for any text and never raises. Offsets are those of `text`.
    """
    text = text[:_MAX_CHARACTERS]
    start, listed = _list_start(text, key)
    objects, broken, closed = _scan_objects(text, start)
    items = tuple(item for item in objects if not fields.isdisjoint(item.value))
    found = bool(items) or (listed and closed and not broken)
    return Recovered(items, found, _problems(text, key, items, found=found, cut=broken or not closed))


def _list_start(text: str, key: str) -> tuple[int, bool]:
    """Return where the list's first object may stand, and whether a list was opened at all."""
    thought = text.rfind("</think>")
    opening = re.compile(rf'"{re.escape(key)}"\s*:\s*\[').search(text, max(thought, 0))
    return (opening.end(), True) if opening else (max(thought, 0), False)


def _scan_objects(text: str, start: int) -> tuple[list[Item], bool, bool]:
    """Return the complete objects from `start` on, whether one was broken, and whether the list was closed."""
    items: list[Item] = []
    position, broken = start, 0
    between_objects = True
    while broken < _MAX_BROKEN:
        brace = text.find("{", position)
        if between_objects and "]" in text[position : brace if brace >= 0 else len(text)]:
            return items, broken > 0, True
        if brace < 0:
            break
        value, end = _decode(text, brace)
        if value is None:
            broken += 1
        else:
            items.append(Item(value, position if between_objects else brace, brace, end))
        between_objects = value is not None
        position = end
    return items, broken > 0, False


def _decode(text: str, brace: int) -> tuple[dict[str, Any] | None, int]:
    try:
        return _DECODER.raw_decode(text, brace)
    except (ValueError, RecursionError):  # cut short, malformed, or nested without end
        return None, brace + 1


def _problems(text: str, key: str, items: tuple[Item, ...], *, found: bool, cut: bool) -> tuple[str, ...]:
    if not found:
        return ("the reply holds nothing that could be read",)
    if cut:
        return (f"the reply was cut off or broken; {len(items)} complete entries were kept",)
    if not _is_clean(text, key, len(items)):
        return ("the reply held more than the JSON that was asked for",)
    return ()


def _is_clean(text: str, key: str, count: int) -> bool:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(document, dict) or list(document) != [key]:
        return False
    return isinstance(document[key], list) and len(document[key]) == count
