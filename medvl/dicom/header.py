"""Reads a DICOM file up to its pixels: the elements medvl needs, and where the pixel data lie.

Knows bytes and tags; what the elements mean is for `instance`.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medvl.errors import InputError

PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009})
MAX_INFLATED_BYTES = 2 * 1024**3  # a deflated dataset has to be inflated as a whole
MAX_ELEMENT_BYTES = 64 * 1024**2  # before the pixels; the largest honest ones are per-frame groups
# What pydicom and zipfile raise over broken bytes, when parsing and, since values are converted late, on access.
# Found by mutating real files; RecursionError comes from sequences nested without end.
BROKEN = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
NOT_DICOM = "not a DICOM file"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # of files without preamble, either byte order


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the value of Pixel Data lies."""

    tag: int
    offset_bytes: int  # in the file; in the inflated dataset for a deflated one
    length_bytes: int | None  # as the header says; None: undefined, so encapsulated (PS3.5 A.4)


@dataclass(frozen=True, slots=True)
class Header:
    """The elements asked for, and what the bytes alone tell."""

    dataset: Dataset
    meta: Dataset  # file meta information; empty where there is none
    transfer_syntax_uid: str
    pixels: PixelElement | None
    size_bytes: int  # of the file, or of the inflated dataset


def read_header(stream: IO[bytes], size_bytes: int, tags: Collection[int]) -> Header:
    """Read the elements of `tags` that come before the pixel data.

    stream: at its start, seekable; the caller closes it. size_bytes: its length.
    Files without preamble or file meta information are read when they begin as a dataset does.
    Raises InputError when the bytes are not DICOM or claim impossible lengths, or one of BROKEN.
    """
    binary = cast(BinaryIO, stream)  # what pydicom's signatures ask for
    if read_preamble(binary, force=True) is None:
        _check_first_group(stream)
    meta = read_dataset(binary, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    syntax = str(meta.get("TransferSyntaxUID") or _guess_syntax(stream))
    if syntax == DeflatedExplicitVRLittleEndian:
        stream, size_bytes = _inflate(stream)
        binary = cast(BinaryIO, stream)
    found: list[PixelElement] = []
    dataset = read_dataset(
        binary,
        syntax == ImplicitVRLittleEndian,
        syntax != ExplicitVRBigEndian,
        stop_when=_pixel_watcher(stream, found, frozenset(tags)),
        specific_tags=list(tags),
    )
    return Header(dataset, meta, syntax, found[0] if found else None, size_bytes)


def _check_first_group(stream: IO[bytes]) -> None:
    start = stream.read(2)
    stream.seek(0)
    if start not in _FIRST_GROUPS:
        raise InputError(NOT_DICOM)


def _guess_syntax(stream: IO[bytes]) -> str:
    """Tell the encoding of a dataset whose meta information is missing from its first element."""
    start = stream.tell()
    first = stream.read(6)
    stream.seek(start)
    if not first[4:6].isalpha():
        return ImplicitVRLittleEndian
    # Group 0008 reads as 0800 in the wrong byte order.
    return ExplicitVRBigEndian if first[:1] == b"\0" else ExplicitVRLittleEndian


def _inflate(stream: IO[bytes]) -> tuple[IO[bytes], int]:
    # pydicom inflates without a limit; a few kilobytes can claim all memory.
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(stream.read(), MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise InputError(f"deflated dataset larger than {MAX_INFLATED_BYTES // 1024**3} GiB")
    return io.BytesIO(content), len(content)


def _pixel_watcher(
    stream: IO[bytes], found: list[PixelElement], wanted: frozenset[int]
) -> Callable[[int, str | None, int], bool]:
    """Make the callback that stops reading at the pixel data, noting where they are."""

    def at_pixels(tag: int, _vr: str | None, length: int) -> bool:
        if tag == PIXEL_DATA or tag in FLOAT_PIXEL_DATA:
            found.append(PixelElement(tag, stream.tell(), None if length == _UNDEFINED_LENGTH else length))
            return True
        if tag in wanted and MAX_ELEMENT_BYTES < length < _UNDEFINED_LENGTH:
            raise InputError(f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) claims {length} bytes")
        return False

    return at_pixels
