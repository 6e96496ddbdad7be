"""Reads single header values, forgivingly: an element that is absent, empty or broken counts as not there.

A wrong Slice Thickness must not cost a slice; what nothing can be read without is checked by the caller.
"""

from __future__ import annotations

import math
from typing import Any

from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from medvl.dicom.header import BROKEN
from medvl.text import clean_text

LONGEST_TEXT = 1024  # no short text of DICOM may be longer (PS3.5 table 6.2-1, ST)


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Read every value of an element as cleaned text."""
    return tuple(clean_text(str(value), LONGEST_TEXT) for value in _values(dataset, keyword))


def text(dataset: Dataset, keyword: str) -> str:
    """Read the first value of an element as cleaned text, "" where there is none."""
    return next(iter(texts(dataset, keyword)), "")


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Read every value of an element; empty unless all of them are finite numbers."""
    try:
        values = tuple(float(value) for value in _values(dataset, keyword))
    except (TypeError, ValueError):
        return ()
    return values if all(map(math.isfinite, values)) else ()


def number(dataset: Dataset, keyword: str) -> float | None:
    """Read the first value of an element as a finite number."""
    return next(iter(numbers(dataset, keyword)), None)


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Read the first value of an element as a whole number."""
    value = number(dataset, keyword)
    return int(value) if value is not None and value == int(value) else None


def person(dataset: Dataset, keyword: str) -> str:
    """Read a person's name as stored: `Family^Given^Middle=ideographic=phonetic` (PS3.5 6.2.1), or ""."""
    return clean_text(str(next(iter(_values(dataset, keyword)), "")), LONGEST_TEXT)


def items(dataset: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """Read the items of a sequence."""
    return tuple(item for item in _values(dataset, keyword) if isinstance(item, Dataset))


def _values(dataset: Dataset, keyword: str) -> tuple[Any, ...]:
    try:
        value = dataset.get(keyword)
    except BROKEN:
        return ()
    if value is None or value == "":
        return ()
    # pydicom's MultiValue and Sequence are not lists.
    several = hasattr(value, "__iter__") and not isinstance(value, str | bytes | PersonName | Dataset)
    return tuple(value) if several else (value,)
