"""Reads what a compressed frame says of itself, before any decoder sees it: its size, and whether it is damaged.

Knows the markers of JPEG (ITU-T T.81), JPEG-LS (T.87) and JPEG 2000 (T.800); decodes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_END = b"\xff\xd9"  # of all three
_JPEG_START, _JPEG_2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
_JP2_BOX = b"\x00\x00\x00\x0cjP  "  # some writers wrap the codestream, against PS3.5 A.4.4
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})  # SOF0…15 and JPEG-LS's SOF55
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_LONGEST_BOXES = 4096
_TILE_PART, _TILE_DATA, _CODING_STYLE = b"\xff\x90", b"\xff\x93", b"\xff\x52"  # SOT, SOD, COD
_MARKERS_IN_PACKETS = 0x06  # of Scod: packets begin or end with a marker
_NOT_ARITHMETIC = 0x41  # of a code-block style: raw bits (bypass), or the high-throughput coder of T.814
_ZEROS_BY_CHANCE = 16  # in a row, beyond those of empty packets; 2⁻¹²⁸


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
    start = _jpeg_2000_start(content)
    return None if start is None else _jpeg_2000_size(content[start : start + 64])


def is_complete(content: bytes) -> bool:
    """Tell whether a JPEG, JPEG-LS or JPEG 2000 codestream has its last marker; padding may follow (PS3.5 A.4)."""
    return content.rstrip(b"\0").endswith(_END)


def find_damage(content: bytes) -> str:
    """Say what in a JPEG 2000 codestream cannot be as it was written; "" where nothing shows, or for another kind.

    Decoders make a picture of damaged packets without a word. Undamaged ones hold no two bytes above FF8F (T.800
    B.10.1, C.2), and arithmetic code no run of zeros longer than there are packets: an empty one is a single zero.
    There is no check sum, so damage to a few bytes stays unseen.
    """
    start = _jpeg_2000_start(content)
    if start is None:
        return ""
    header_end = content.find(_TILE_PART, start)
    style = _coding_style(content[start:header_end])
    for part in _tile_parts(content, header_end):
        if part is None:
            return "its tile-parts are not as long as they say"
        if not style.markers_in_packets and re.search(rb"\xff[\x90-\xff]", part):
            return "a marker stands where there can be none"
        zeros = style.packet_count + _ZEROS_BY_CHANCE
        if style.arithmetic and zeros <= len(part) and bytes(zeros) in part:
            return "zeros stand in place of data"
    return ""


class _CodingStyle(NamedTuple):
    """What the COD marker segment says of packets (T.800 A.6.1)."""

    markers_in_packets: bool
    arithmetic: bool
    packet_count: int  # at most, in one tile


def _coding_style(header: bytes) -> _CodingStyle:
    """Read the COD marker segment of a main header; the loosest style where there is none."""
    size, at = _jpeg_2000_size(header[:64]), header.find(_CODING_STYLE, 4)
    if size is None or at < 0 or len(header) < at + 14:
        return _CodingStyle(markers_in_packets=True, arithmetic=False, packet_count=0)
    scod, layers = header[at + 4], int.from_bytes(header[at + 6 : at + 8])
    levels, block_style = header[at + 9], header[at + 12]
    precincts = header[at + 14 : at + 15 + levels] if scod & 1 else b"\xff" * (levels + 1)
    count = sum(_precinct_count(size, levels - level, each) for level, each in enumerate(precincts))
    return _CodingStyle(
        markers_in_packets=bool(scod & _MARKERS_IN_PACKETS),
        arithmetic=not block_style & _NOT_ARITHMETIC,
        packet_count=layers * size.samples * count,
    )


def _precinct_count(size: CodedSize, halvings: int, exponents: int) -> int:
    """Count the precincts of one resolution at most: its grid may begin anywhere (T.800 B.6)."""
    across, down = exponents & 15, exponents >> 4
    return ((size.columns >> halvings >> across) + 2) * ((size.rows >> halvings >> down) + 2)


def _tile_parts(content: bytes, place: int) -> Iterator[bytes | None]:
    """Yield the packets of each tile-part; None, and nothing more, where they do not follow one another."""
    while content.startswith(_TILE_PART, place) and len(content) >= place + 12:
        length = int.from_bytes(content[place + 6 : place + 10])  # Psot; 0: to the end
        end = place + length if length else len(content.rstrip(b"\0")) - len(_END)
        data = content.find(_TILE_DATA, place + 12, end)
        is_last = end <= len(content) and not content[end : end + 2].strip(b"\0")  # some writers leave out the end
        if data < 0 or not (is_last or content.startswith((_TILE_PART, _END), end)):
            yield None
            return
        yield content[data + 2 : end]
        place = end


def _jpeg_2000_start(content: bytes) -> int | None:
    start = content.find(_JPEG_2000_START, 0, _LONGEST_BOXES) if content.startswith(_JP2_BOX) else 0
    return start if start >= 0 and content.startswith(_JPEG_2000_START, start) else None


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
