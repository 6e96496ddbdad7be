"""Reads single header values, forgivingly: an element that is absent, empty or broken counts as not there.

A wrong Slice Thickness must not cost a slice; what nothing can be read without is checked by the caller.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from medvl.dicom.header import BROKEN, LONGEST_VALUE_BYTES, parse_sequence
from medvl.dicom.plain import PlainDataset, plain_values, tag_of
from medvl.text import clean_text

LONGEST_TEXT = 1024  # no short text of DICOM may be longer (PS3.5 table 6.2-1, ST)


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Read every value of an element as cleaned text."""
    if isinstance(dataset, PlainDataset) and (spelling := dataset.spelling(keyword)):
        plain = _plain_texts(*spelling)
        if plain is not None:
            return plain
    return _as_texts(_values(dataset, keyword))


def _as_texts(values: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(clean_text(str(value), LONGEST_TEXT) for value in values)


def text(dataset: Dataset, keyword: str) -> str:
    """Read the first value of an element as cleaned text, "" where there is none."""
    found = texts(dataset, keyword)
    return found[0] if found else ""


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Read every value of an element; empty unless all of them are finite numbers."""
    if isinstance(dataset, PlainDataset) and (spelling := dataset.spelling(keyword)):
        plain = _plain_numbers(*spelling)
        if plain is not None:
            return plain
    return _as_numbers(_values(dataset, keyword))


def _as_numbers(given: tuple[Any, ...]) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in given)
    except (TypeError, ValueError):
        return ()
    return values if all(map(math.isfinite, values)) else ()


def number(dataset: Dataset, keyword: str) -> float | None:
    """Read the first value of an element as a finite number."""
    found = numbers(dataset, keyword)
    return found[0] if found else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Read the first value of an element as a whole number."""
    value = number(dataset, keyword)
    return int(value) if value is not None and value == int(value) else None


def person(dataset: Dataset, keyword: str) -> str:
    """Read a person's name as stored: `Family^Given^Middle=ideographic=phonetic` (PS3.5 6.2.1), or ""."""
    return clean_text(str(next(iter(_values(dataset, keyword)), "")), LONGEST_TEXT)


def items(dataset: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """Read the items of a sequence. Raises InputError if there are more than can be kept."""
    raw = _element(dataset, keyword)
    if raw is None:
        return ()
    if not isinstance(raw, RawDataElement):
        return tuple(item for item in _values(dataset, keyword) if isinstance(item, Dataset))
    try:
        # Not kept in the dataset: the groups of ten thousand frames would stay in memory together.
        return tuple(parse_sequence(raw, dataset.original_character_set))
    except BROKEN:
        return ()


def _element(dataset: Dataset, keyword: str) -> RawDataElement | DataElement | None:
    return dataset.get_item(tag_of(keyword), keep_deferred=True)


@lru_cache(maxsize=8192)
def _plain_texts(vr: str, value: bytes) -> tuple[str, ...] | None:
    values = plain_values(vr, value) if len(value) <= LONGEST_VALUE_BYTES else ()
    return None if values is None else _as_texts(values)


@lru_cache(maxsize=8192)
def _plain_numbers(vr: str, value: bytes) -> tuple[float, ...] | None:
    values = plain_values(vr, value) if len(value) <= LONGEST_VALUE_BYTES else ()
    return None if values is None else _as_numbers(values)


def _values(dataset: Dataset, keyword: str) -> tuple[Any, ...]:
    element = _element(dataset, keyword)
    if element is None:
        return ()
    if isinstance(element, RawDataElement) and len(element.value or b"") > LONGEST_VALUE_BYTES:
        return ()
    try:
        value = dataset.get(keyword)
    except BROKEN:
        return ()
    if value is None or value == "":
        return ()
    # pydicom's MultiValue and Sequence are not lists.
    several = hasattr(value, "__iter__") and not isinstance(value, str | bytes | PersonName | Dataset)
    return tuple(value) if several else (value,)
