"""Reads the look-up tables of a header: modality and VOI LUTs, and palettes as the luminance of their colours.

A broken table counts as absent, as every other optional value of a header does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medvl.dicom.elements import items
from medvl.dicom.header import BROKEN
from medvl.records import LookupTable, Window

MAX_ENTRIES = 1 << 16  # a descriptor's first number has sixteen bits (PS3.3 C.11.1.1.1)
# ITU-R BT.601, the luminance of the YBR photometric interpretations (PS3.3 C.7.6.3.1.2).
LUMINANCE = (0.299, 0.587, 0.114)
PALETTE_COLOR = "PALETTE COLOR"
COLOURS = ("Red", "Green", "Blue")
_Numbers = NDArray[Any]


def read_table(dataset: Dataset, keyword: str, *, signed: bool, big_endian: bool = False) -> LookupTable | None:
    """Read the table in the first item of a LUT sequence (PS3.3 C.11.1.1, C.11.2.1.1); None without a usable one.

    signed: whether the values looked up are, so that the first one mapped may be negative.
    """
    for item in items(dataset, keyword)[:1]:
        try:
            count, first, bits = _descriptor(item["LUTDescriptor"].value, signed, big_endian)
            return _table(first, bits, _entries(item["LUTData"].value, count, bits, big_endian))
        except BROKEN:
            return None
    return None


def read_palette(dataset: Dataset, *, signed: bool, big_endian: bool = False) -> LookupTable | None:
    """Read a palette as the luminance of each index (PS3.3 C.7.6.3.1.5 and .6, segments C.7.9.2); None without one."""
    try:
        descriptors, colours = zip(*(_colour(dataset, name, signed, big_endian) for name in COLOURS), strict=True)
        grey = np.rint(np.stack(colours, axis=-1) @ np.asarray(LUMINANCE, np.float32))
        return _table(descriptors[0][0], descriptors[0][1], grey)
    except BROKEN:
        return None


def voi_windows(table: LookupTable | None) -> tuple[Window, ...]:
    """Make the window that shows a VOI LUT; its level and width are the values that it spreads."""
    if table is None:
        return ()
    width = len(table.values) // 2
    return (Window(table.first + width / 2, width, "VOI LUT", "LINEAR_EXACT", table),)


def _colour(dataset: Dataset, name: str, signed: bool, big_endian: bool) -> tuple[tuple[int, int], _Numbers]:
    prefix = f"{name}PaletteColorLookupTable"
    count, first, bits = _descriptor(dataset[f"{prefix}Descriptor"].value, signed, big_endian)
    if f"{prefix}Data" in dataset:
        return (first, bits), _entries(dataset[f"{prefix}Data"].value, count, bits, big_endian)
    content = dataset[f"Segmented{prefix}Data"].value
    words = np.frombuffer(content, "u1" if bits == 8 else _word(big_endian))
    return (first, bits), _expand(words.tolist(), count, words.itemsize)


def _descriptor(value: Any, signed: bool, big_endian: bool) -> tuple[int, int, int]:
    """Read number of entries, first value mapped, bits of an entry."""
    count, first, bits = np.frombuffer(value, _word(big_endian)) if isinstance(value, bytes) else value
    if signed and first >= 1 << 15:
        first = int(first) - (1 << 16)
    return int(count) or MAX_ENTRIES, int(first), int(bits)


def _entries(value: Any, count: int, bits: int, big_endian: bool) -> _Numbers:
    """Read `count` entries; those of eight bits may fill a byte or a word each."""
    if not isinstance(value, bytes):
        entries = np.atleast_1d(np.asarray(value)).astype(np.uint16)
        # Two entries of eight bits in each word, told as words.
        value = entries.tobytes() if bits <= 8 and len(entries) < count else value
        big_endian = False
    if isinstance(value, bytes):
        entries = np.frombuffer(value, "u1" if len(value) < 2 * count else _word(big_endian))
    if len(entries) < count:
        raise ValueError("a table shorter than its descriptor says")
    return entries[:count]


def _table(first: int, bits: int, entries: NDArray[Any]) -> LookupTable:
    return _shared(first, bits, entries.astype("<u2").tobytes())


@lru_cache(maxsize=8)
def _shared(first: int, bits: int, values: bytes) -> LookupTable:
    """Keep one copy of a table that all slices of a series carry."""
    if not 1 <= bits <= 16 or not values:
        raise ValueError("impossible table")
    return LookupTable(first, bits, values)


def _word(big_endian: bool) -> str:
    return ">u2" if big_endian else "<u2"


# --- segmented palettes ------------------------------------------------------------------------------------------


def _expand(values: Sequence[int], count: int, size_bytes: int) -> _Numbers:
    """Expand the segments of a table (PS3.3 C.7.9.2), never far beyond what a table can hold.

    values: as they lie in the file, each of `size_bytes`.
    """
    entries: list[int] = []
    place = 0
    while len(entries) < count:
        place = _expand_one(values, place, size_bytes, entries)
    return np.asarray(entries[:count])


def _expand_one(values: Sequence[int], place: int, size_bytes: int, entries: list[int], *, repeats: bool = True) -> int:
    """Append the entries of the segment at `place`, and tell where the next one begins."""
    opcode, length = values[place], values[place + 1]
    if opcode == 0:  # discrete
        entries += values[place + 2 : place + 2 + length]
        return place + 2 + length
    if opcode == 1:  # linear, from the entry before, which is not repeated
        entries += np.rint(np.linspace(entries[-1], values[place + 2], length + 1)[1:]).astype(int).tolist()
        return place + 3
    if opcode != 2 or not repeats:
        raise ValueError("an unknown segment")
    # Indirect: `length` earlier segments once more, from a byte offset of 32 bits, its lower half first.
    parts = 4 // size_bytes
    offset = sum(part << (8 * size_bytes * at) for at, part in enumerate(values[place + 2 : place + 2 + parts]))
    at = offset // size_bytes
    for _ in range(length):
        at = _expand_one(values, at, size_bytes, entries, repeats=False)
        if len(entries) > 2 * MAX_ENTRIES:
            raise ValueError("segments without end")
    return place + 2 + parts
