"""Reads plain headers, which nearly all are, several times as fast as pydicom does; leaves every other to pydicom.

Plain: a preamble, file meta information, little endian, only known value representations, no sequence
among the elements asked for, and text in printable ASCII, which every character set of DICOM spells alike.
What is read equals what pydicom reads, to the last character; its own `Dataset` carries it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from struct import Struct
from struct import error as StructError
from typing import IO, Any, TypeVar

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

_READ_BYTES = (16 * 1024, 256 * 1024)  # most headers end in the first, nearly all in the second
_DEEPEST = 16  # sequences in sequences
_PREAMBLE_BYTES = 128
_REMEMBERED = 256  # of each kind of facts
_UNDEFINED_LENGTH = 0xFFFFFFFF
_CHARACTER_SET = 0x00080005
_TRANSFER_SYNTAX = 0x00020010
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_NOT_HERE = frozenset({DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian})

_EXPLICIT = Struct("<HH2sH").unpack_from
_IMPLICIT = Struct("<HHL").unpack_from
_LENGTH = Struct("<L").unpack_from
# PS3.5 7.1.2: whose length takes two bytes, and four after two reserved ones.
_SHORT_VRS = "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US"
_LONG_VRS = "OB OD OF OL OV OW SQ SV UC UN UR UT UV"
_SHORT = {vr.encode(): vr for vr in _SHORT_VRS.split()}
_LONG = {vr.encode(): vr for vr in _LONG_VRS.split()}


_T = TypeVar("_T")


class _NotPlainError(Exception):
    """These bytes are for pydicom."""


@dataclass(frozen=True, slots=True)
class PlainHeader:
    """What a plain header holds before its pixels."""

    meta: PlainDataset
    dataset: PlainDataset  # the elements asked for
    transfer_syntax_uid: str
    pixels_tag: int
    pixels_offset_bytes: int
    pixels_length_bytes: int  # 0xFFFFFFFF: undefined


def read_plain_header(stream: IO[bytes], tags: Collection[int]) -> PlainHeader | None:
    """Read the elements of `tags` from a plain header. stream: at its start; left anywhere.

    None: not plain, though pydicom may well read it.
    """
    wanted = _canonical_tags(tuple(tags))
    content = b""
    for size_bytes in _READ_BYTES:
        content += stream.read(size_bytes - len(content))
        try:
            return _parse(content, wanted)
        except (StructError, _NotPlainError) as error:
            if len(content) < size_bytes or isinstance(error, _NotPlainError):
                return None
    return None


@lru_cache(maxsize=64)
def _canonical_tags(tags: tuple[int, ...]) -> dict[int, BaseTag]:
    """Pair tags with the one object of pydicom's type that stands for each.

    pydicom's tags compare in Python; a dictionary finds a key that is the very same object without comparing.
    """
    return {tag: _canonical(tag) for tag in (*tags, _CHARACTER_SET)}


@lru_cache(maxsize=4096)
def _canonical(tag: int) -> BaseTag:
    return BaseTag(tag)


@lru_cache(maxsize=4096)
def tag_of(keyword: str) -> BaseTag:
    """Return the canonical tag of a keyword of the dictionary."""
    return _canonical(tag_for_keyword(keyword) or 0)


def _parse(content: bytes, tags: Mapping[int, BaseTag]) -> PlainHeader:
    if content[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] != b"DICM":
        raise _NotPlainError
    meta = _read_meta(content)
    syntax = _transfer_syntax(meta.found.get(_canonical(_TRANSFER_SYNTAX)))
    body = _read_body(content, meta.end, syntax == ImplicitVRLittleEndian, tags)
    return PlainHeader(meta.dataset(), body.dataset(), syntax, body.tag, body.value_at, body.length)


def _transfer_syntax(raw: DataElement | RawDataElement | None) -> str:
    values = plain_values("UI", raw.value or b"") if isinstance(raw, RawDataElement) and raw.VR == "UI" else None
    if values is None or len(values) != 1 or values[0] in _NOT_HERE:
        raise _NotPlainError
    return str(values[0])


class PlainDataset(Dataset):
    """A dataset that tells how its elements are spelled, for as long as pydicom has not decoded them."""

    def get_item(self, key: Any, *, keep_deferred: bool = False) -> Any:
        """Return an element as it is, without making sure that the tag is one."""
        return self._dict.get(key) if keep_deferred else super().get_item(key)

    def spelling(self, keyword: str) -> tuple[str, bytes] | None:
        """Return what `plain_values` takes; None where pydicom is to be asked."""
        raw = self._dict.get(_TAG_OF[keyword])
        if raw is None:
            return _NOT_THERE
        if raw.__class__ is not RawDataElement:
            return None
        _, vr, _, value, *_ = raw  # faster than by name
        return vr or _dictionary_vr(raw.tag), value or b""


class _Tags(dict[str, BaseTag]):
    def __missing__(self, keyword: str) -> BaseTag:
        self[keyword] = tag = tag_of(keyword)
        return tag


_TAG_OF = _Tags()
_NOT_THERE = ("LO", b"")


def remembered(keywords: str) -> Callable[[Callable[[Dataset], _T]], Callable[[Dataset], _T]]:
    """Decorate what depends on a few elements of a dataset only: files of a series mostly spell them alike."""
    names = ("SpecificCharacterSet", *keywords.split())

    def decorate(compute: Callable[[Dataset], _T]) -> Callable[[Dataset], _T]:
        known: dict[tuple[tuple[str, bytes] | None, ...], _T] = {}

        def look_up(dataset: Dataset) -> _T:
            if not isinstance(dataset, PlainDataset):
                return compute(dataset)
            spelling = tuple(map(dataset.spelling, names))
            if None in spelling:
                return compute(dataset)
            if spelling not in known:
                if len(known) >= _REMEMBERED:
                    known.clear()
                known[spelling] = compute(dataset)
            return known[spelling]

        return look_up

    return decorate


@dataclass(frozen=True, slots=True)
class _Part:
    """The elements of one part of the file, and the head of the one that begins the next part."""

    found: dict[BaseTag, DataElement | RawDataElement]
    is_implicit: bool
    end: int  # where the head of the next part's first element begins
    tag: int = 0  # of that element; of no interest where it is not the pixels
    length: int = 0
    value_at: int = 0

    def dataset(self) -> PlainDataset:
        """Hand over what was found as pydicom does."""
        dataset = PlainDataset(self.found)
        raw = self.found.get(_canonical(_CHARACTER_SET))
        dataset.set_original_encoding(
            self.is_implicit, True, _encodings(raw.value) if raw and raw.value else default_encoding
        )
        return dataset


def _read_meta(content: bytes) -> _Part:
    """Read the file meta information (PS3.10 7.1), which is in explicit little endian."""
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    at = _PREAMBLE_BYTES + 4
    while _implicit_head(content, at)[0] >> 16 == 2:
        tag, vr, length, start = _explicit_head(content, at)
        _keep(found, _canonical(tag), vr, content, start, length, False)
        at = start + length
    return _Part(found, False, at)


def _read_body(content: bytes, at: int, is_implicit: bool, tags: Mapping[int, BaseTag]) -> _Part:
    """Gather the elements asked for, up to the pixels."""
    if is_implicit and content[at + 4 : at + 6].isupper():
        raise _NotPlainError  # explicit after all, as some writers do
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    head = _implicit_head if is_implicit else _explicit_head
    while True:
        tag, vr, length, start = head(content, at)
        if tag in tags:
            _keep(found, tags[tag], vr, content, start, length, is_implicit)
        elif tag in _PIXELS:
            return _Part(found, is_implicit, at, tag, length, start)
        elif tag >> 16 == 0xFFFE:
            raise _NotPlainError
        at = start + length if length != _UNDEFINED_LENGTH else _after_sequence(content, start, vr, head, 0)


def _keep(
    found: dict[BaseTag, DataElement | RawDataElement],
    tag: BaseTag,
    vr: str | None,
    content: bytes,
    start: int,
    length: int,
    is_implicit: bool,
) -> None:
    if length == _UNDEFINED_LENGTH or vr == "SQ" or (vr is None and _dictionary_vr(tag) == "SQ"):
        raise _NotPlainError
    value = content[start : start + length]
    if len(value) < length:
        raise StructError
    found[tag] = _make_raw(
        RawDataElement, (tag, vr, length, value or _empty_value(vr), start, is_implicit, True, True, False)
    )


@cache
def _empty_value(vr: str | None) -> Any:
    return empty_value_for_VR(vr, raw=True)


_make_raw = tuple.__new__  # a named tuple's own constructor costs as much as the rest of the walk


_Head = Callable[[bytes, int], tuple[int, str | None, int, int]]  # tag, VR, length and start of the value


def _explicit_head(content: bytes, at: int) -> tuple[int, str | None, int, int]:
    group, element, letters, length = _EXPLICIT(content, at)
    tag = group << 16 | element
    if vr := _SHORT.get(letters):
        return tag, vr, length, at + 8
    if letters in _LONG:
        return tag, _LONG[letters], _LENGTH(content, at + 8)[0], at + 12
    if group == 0xFFFE:  # items have no VR
        return tag, None, _LENGTH(content, at + 4)[0], at + 8
    raise _NotPlainError


def _implicit_head(content: bytes, at: int) -> tuple[int, str | None, int, int]:
    group, element, length = _IMPLICIT(content, at)
    return group << 16 | element, None, length, at + 8


def _after_sequence(content: bytes, at: int, vr: str | None, head: _Head, depth: int) -> int:
    """Return where a sequence of undefined length ends (PS3.5 7.5)."""
    if depth > _DEEPEST or vr not in ("SQ", None):
        raise _NotPlainError
    while True:
        tag, _, length, at = _implicit_head(content, at)
        if tag == _END_OF_SEQUENCE:
            return at
        if tag != _ITEM:
            raise _NotPlainError
        at = _after_item(content, at, head, depth) if length == _UNDEFINED_LENGTH else at + length


def _after_item(content: bytes, at: int, head: _Head, depth: int) -> int:
    while True:
        tag, vr, length, at = head(content, at)
        if tag == _END_OF_ITEM:
            return at
        if length == _UNDEFINED_LENGTH:
            at = _after_sequence(content, at, vr, head, depth + 1)
        else:
            at += length


# --- values ------------------------------------------------------------------------------------------------------

_ASCII = re.compile(rb"[ -~]*\0*")
_WHOLE = re.compile(r"[+-]?\d{1,12}")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?")
_ONE_TEXT = frozenset({"LT", "ST", "UT"})  # in which a backslash is a backslash
_TEXTS = frozenset({"CS", "DA", "DT", "LO", "PN", "SH", "TM", "UC", "UI"}) | _ONE_TEXT
_BINARY = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}


def plain_values(vr: str, value: bytes) -> tuple[str | int | float, ...] | None:
    """Decode the values of an element; decimal and integer strings stay strings. None: not plain."""
    if not value:
        return ()
    if vr in _BINARY:
        return _numbers(_BINARY[vr], value)
    if not _ASCII.fullmatch(value):
        return None
    text = value.decode("ascii").rstrip("\0 ")
    if vr in _TEXTS:
        return _texts(vr, text)
    pattern = {"IS": _WHOLE, "DS": _DECIMAL}.get(vr)
    parts = tuple(part.strip() for part in text.split("\\"))
    return parts if pattern and all(map(pattern.fullmatch, parts)) else None


@lru_cache(maxsize=4096)
def _dictionary_vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _texts(vr: str, text: str) -> tuple[Any, ...] | None:
    if vr == "PN" and "=" in text:
        return None
    if not text:
        return ()
    return (text,) if vr in _ONE_TEXT else tuple(text.split("\\"))


def _numbers(code: str, value: bytes) -> tuple[Any, ...] | None:
    one = Struct(f"<{code}")
    return tuple(each for (each,) in one.iter_unpack(value)) if len(value) % one.size == 0 else None


@lru_cache(maxsize=64)
def _encodings(value: bytes) -> list[str]:
    return convert_encodings([part.strip() for part in value.decode("iso8859").rstrip("\0 ").split("\\")])
