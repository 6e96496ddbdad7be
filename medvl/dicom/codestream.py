"""Reads what a compressed frame says of itself: its size, samples and bits, before any decoder allocates for them.

Knows the first markers of JPEG (ITU-T T.81), JPEG-LS (T.87) and JPEG 2000 (T.800); decodes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

_END = b"\xff\xd9"  # of all three
_JPEG_START, _JPEG_2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
_JP2_BOX = b"\x00\x00\x00\x0cjP  "  # some writers wrap the codestream, against PS3.5 A.4.4
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})  # SOF0…15 and JPEG-LS's SOF55
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_LONGEST_BOXES = 4096


class CodedSize(NamedTuple):
    """What a codestream holds."""

    rows: int
    columns: int
    samples: int
    bits: int


def read_coded_size(content: bytes) -> CodedSize | None:
    """Read the size of a JPEG, JPEG-LS or JPEG 2000 codestream; None if it is none of these or too broken to say."""
    if content.startswith(_JPEG_START):
        return _jpeg_size(content)
    start = content.find(_JPEG_2000_START, 0, _LONGEST_BOXES) if content.startswith(_JP2_BOX) else 0
    if start >= 0 and content.startswith(_JPEG_2000_START, start):
        return _jpeg_2000_size(content[start : start + 64])
    return None


def is_complete(content: bytes) -> bool:
    """Tell whether a JPEG, JPEG-LS or JPEG 2000 codestream has its last marker; padding may follow (PS3.5 A.4)."""
    return content.rstrip(b"\0").endswith(_END)


def _jpeg_size(content: bytes) -> CodedSize | None:
    place = 2
    while place + 10 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker in _JPEG_FRAMES:
            rows, columns = (int.from_bytes(content[at : at + 2]) for at in (place + 5, place + 7))
            return CodedSize(rows, columns, samples=content[place + 9], bits=content[place + 4])
        if marker == 0xFF:  # fill bytes may stand before a marker
            place += 1
        elif marker in _WITHOUT_LENGTH:
            place += 2
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return None


def _jpeg_2000_size(start: bytes) -> CodedSize | None:
    """Read the SIZ marker segment, which comes first (T.800 A.5.1)."""
    if len(start) < 43:
        return None
    right, bottom, left, top = (int.from_bytes(start[at : at + 4]) for at in (8, 12, 16, 20))
    samples = int.from_bytes(start[40:42])
    return CodedSize(bottom - top, right - left, samples, (start[42] & 0x7F) + 1)
