"""Reads a DICOM file up to its pixels: the elements medvl needs, and where the pixel data lie.

Knows bytes and tags; what the elements mean is for `instance`.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, MutableSequence
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, NoReturn, cast

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble, read_sequence
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medvl.dicom.plain import read_plain_header
from medvl.errors import InputError

PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009})
MAX_INFLATED_BYTES = 2 * 1024**3  # of a deflated dataset; a few kilobytes can claim to become more
MAX_ELEMENT_BYTES = 64 * 1024**2  # before the pixels; the largest honest ones are per-frame groups
# Ten thousand frames with all their groups take half a million reads and 30 MB. A read makes at most 0.4 kB of objects.
MAX_READS = 1_000_000
MAX_READ_BYTES = 2 * MAX_ELEMENT_BYTES
# The largest honest value, a table of 65,536 words, is half of it. Texts become objects of a hundred times their size.
LONGEST_VALUE_BYTES = 256 * 1024
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
_PIECE_BYTES = 64 * 1024
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
    if plain := read_plain_header(stream, tags):
        length = None if plain.pixels_length_bytes == _UNDEFINED_LENGTH else plain.pixels_length_bytes
        pixels = PixelElement(plain.pixels_tag, plain.pixels_offset_bytes, length)
        return Header(plain.dataset, plain.meta, plain.transfer_syntax_uid, pixels, size_bytes)
    stream.seek(0)
    with _Guard(stream) as guarded:
        if read_preamble(guarded, force=True) is None:
            _check_first_group(stream)
        meta = read_dataset(guarded, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    syntax = str(meta.get("TransferSyntaxUID") or _guess_syntax(stream))
    is_deflated = syntax == DeflatedExplicitVRLittleEndian
    if is_deflated:
        stream = io.BufferedReader(_Inflated(stream))
    found: list[PixelElement] = []
    with _Guard(stream) as guarded:
        dataset = read_dataset(
            guarded,
            syntax == ImplicitVRLittleEndian,
            syntax != ExplicitVRBigEndian,
            stop_when=_pixel_watcher(stream, found, frozenset(tags)),
            specific_tags=list(tags),
        )
    for tag in tags:
        _parse_in_place(dataset, tag)
    _drop_long_values([dataset])
    if is_deflated:
        size_bytes = stream.seek(0, io.SEEK_END)
    return Header(dataset, meta, syntax, found[0] if found else None, size_bytes)


def parse_sequence(raw: RawDataElement, encoding: str | MutableSequence[str]) -> Sequence:
    """Parse the items of a sequence that was read as bytes; their own sequences stay bytes.

    encoding: of the dataset that holds it. Raises InputError if there are too many, or one of BROKEN.
    """
    content = raw.value or b""
    with _Guard(io.BytesIO(content)) as stream:
        items = read_sequence(stream, raw.is_implicit_VR, raw.is_little_endian, len(content), encoding)
    if len(content) > LONGEST_VALUE_BYTES:
        _drop_long_values(items)
    return items


class _Guard:
    """A stream as pydicom sees it. Gives up on a header without end, which sequences can hide at any depth."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._read, self.seek, self.tell = stream.read, stream.seek, stream.tell
        self._reads_left, self._bytes_left = MAX_READS, MAX_READ_BYTES
        self._trouble = ""

    def __enter__(self) -> BinaryIO:
        return cast(BinaryIO, self)  # has what pydicom's signatures ask for as far as pydicom uses it

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None and self._trouble:  # pydicom makes an OSError of whatever ends an item early
            raise InputError(self._trouble) from error

    def read(self, size: int) -> bytes:
        self._reads_left -= 1
        self._bytes_left -= size
        if size > MAX_ELEMENT_BYTES:  # reading allocates what is asked for before it looks at what is there
            self._give_up(f"an element claims {size} bytes")
        if self._reads_left < 0 or self._bytes_left < 0:
            self._give_up("too many elements before the pixels")
        return self._read(size)

    def _give_up(self, reason: str) -> NoReturn:
        self._trouble = reason
        raise InputError(reason)


def _parse_in_place(dataset: Dataset, tag: int) -> None:
    """Parse a sequence of the top level once and for all, which pydicom would do later, without a guard."""
    raw = dataset.get_item(BaseTag(tag)) if tag in dataset and _is_sequence(tag) else None
    if isinstance(raw, RawDataElement):
        dataset[tag] = DataElement(tag, "SQ", parse_sequence(raw, dataset.original_character_set))


def _drop_long_values(datasets: Iterable[Dataset]) -> None:
    """Leave out values longer than any that is asked for, as deep as sequences are parsed."""
    for dataset in datasets:
        for tag in list(dataset.keys()):
            element = dataset.get_item(tag)
            if not isinstance(element, RawDataElement):
                _drop_long_values(element.value if element.VR == "SQ" else ())
            elif len(element.value or b"") > LONGEST_VALUE_BYTES and not _is_sequence(tag):
                del dataset[tag]


def _is_sequence(tag: int) -> bool:
    return dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"


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


class _Inflated(io.RawIOBase):
    """A deflated dataset (PS3.5 A.5), inflated piece by piece as it is read: pydicom would keep all of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._start = stream, stream.tell()
        self._rewind()

    def _rewind(self) -> None:
        self._stream.seek(self._start)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._waiting, self._position = b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        piece = self._inflate(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._position
        if whence != io.SEEK_END and offset < self._position:
            self._rewind()
        while whence == io.SEEK_END or self._position < offset:
            ahead = _PIECE_BYTES if whence == io.SEEK_END else min(_PIECE_BYTES, offset - self._position)
            if not self._inflate(ahead):
                break
        return self._position

    def _inflate(self, size: int) -> bytes:
        piece = b""
        while not piece and not self._inflater.eof:
            waiting = self._waiting or self._stream.read(_PIECE_BYTES)
            piece = self._inflater.decompress(waiting, size)
            self._waiting = self._inflater.unconsumed_tail
            if not waiting and not piece:
                break
        self._position += len(piece)
        if self._position > MAX_INFLATED_BYTES:
            raise InputError(f"deflated dataset larger than {MAX_INFLATED_BYTES // 1024**3} GiB")
        return piece


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
