"""Finds the bytes of one compressed frame among the fragments of encapsulated pixel data (PS3.5 A.4).

Reads item headers and the fragments asked for; never believes a length before it is compared with the file's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import IO, NamedTuple

MAX_FRAGMENTS = 1 << 20
_ITEM = b"\xfe\xff\x00\xe0"
_JPEG_END = b"\xff\xd9"  # of JPEG 2000, too
_TAIL_BYTES = 10  # in which a codestream's last marker lies, padding included


class Fragment(NamedTuple):
    """One item's value."""

    offset_bytes: int  # in the file
    claimed_bytes: int
    there_bytes: int  # less than claimed when the file ends too early


class TruncatedError(ValueError):
    """A frame whose bytes are not all in the file."""

    def __init__(self, there_bytes: int, claimed_bytes: int) -> None:
        super().__init__(f"{there_bytes} of {claimed_bytes} bytes")
        self.there_bytes, self.claimed_bytes = there_bytes, claimed_bytes


def read_frame(file: IO[bytes], offset_bytes: int, size_bytes: int, index: int, frame_count: int) -> bytes:
    """Read the compressed bytes of frame `index`.

    offset_bytes: of the Pixel Data value. size_bytes: of the file.
    Raises TruncatedError if the file ends before the frame does, ValueError if its fragments cannot be found.
    """
    table, fragments = find_fragments(file, offset_bytes, size_bytes)
    wanted = _fragments_of(file, table, fragments, index, frame_count)
    there, claimed = (sum(sizes) for sizes in zip(*(part[1:][::-1] for part in wanted), strict=True))
    if there < claimed:
        raise TruncatedError(there, claimed)
    return b"".join(_value(file, part) for part in wanted)


def find_fragments(file: IO[bytes], offset_bytes: int, size_bytes: int) -> tuple[tuple[int, ...], list[Fragment]]:
    """Find the Basic Offset Table, in bytes from the first fragment's item, and every fragment.

    Raises ValueError if there is no item where the pixels should begin.
    """
    places: list[Fragment] = []
    place = offset_bytes
    while place + 8 <= size_bytes and len(places) <= MAX_FRAGMENTS:
        file.seek(place)
        tag, length = struct.unpack("<4sI", file.read(8))
        if tag != _ITEM:  # the sequence delimiter, or bytes that are no fragment
            break
        places.append(Fragment(place + 8, length, min(length, size_bytes - place - 8)))
        place += 8 + length
    if not places:
        raise ValueError("no fragments")
    table = _value(file, places[0])
    return struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4]), places[1:]


def _fragments_of(
    file: IO[bytes], table: Sequence[int], fragments: Sequence[Fragment], index: int, frame_count: int
) -> Sequence[Fragment]:
    if frame_count == 1:
        found = fragments
    elif len(table) == frame_count:
        first = fragments[0].offset_bytes - 8 if fragments else 0
        ends = (*table[1:], float("inf"))
        found = [part for part in fragments if table[index] <= part.offset_bytes - 8 - first < ends[index]]
    elif len(fragments) <= frame_count:
        found = fragments[index : index + 1]
    else:
        found = _by_their_ends(file, fragments, index)
    if not found:
        raise ValueError(f"there are {len(fragments)} fragments for {frame_count} frames")
    return found


def _by_their_ends(file: IO[bytes], fragments: Sequence[Fragment], index: int) -> list[Fragment]:
    """Group fragments that no table divides by the marker that ends a JPEG, JPEG-LS or JPEG 2000 codestream."""
    frame, found = 0, []
    for part in fragments:
        if frame == index:
            found.append(part)
        size = min(part.there_bytes, _TAIL_BYTES)
        tail = Fragment(part.offset_bytes + part.there_bytes - size, size, size)
        frame += _JPEG_END in _value(file, tail)
        if frame > index:
            break
    return found


def _value(file: IO[bytes], part: Fragment) -> bytes:
    file.seek(part.offset_bytes)
    return file.read(part.there_bytes)
