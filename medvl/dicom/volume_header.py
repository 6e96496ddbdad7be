"""Finds where a volume file's voxels lie, and what its header says of their place, before SimpleITK reads them.

SimpleITK goes to whatever file a text header names, takes damaged voxels as they come, fills a NIfTI file that breaks
off with zeros, and gives a volume that does not say where it lies a place of its own making. So a header may name one
file in its own folder, nothing in it may be read in two ways, compressed voxels are held against their check sum, and
what a header leaves open stays open.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from medvl.dicom.decoders import DecodeError
from medvl.dicom.source import leads_elsewhere

MAX_HEADER_BYTES = 64 * 1024  # gradient tables of diffusion studies have 20 kB
MAX_EXTENSION_BYTES = 64 * 1024**2  # of a NIfTI header; some hold the DICOM headers that they were made from
_BLANK_LINE = re.compile(rb"\n\r?\n")
_DATA_FILE_LINE = re.compile(rb"ElementDataFile[^\n]*\n?")  # the last of a MetaImage header, spelt just so
_AMBIGUOUS = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f]|\r(?!\n)")
_FIELD = re.compile(r"([^:=]+)[:=](.*)")
_LIST = re.compile(r"(skip)?list( +\d+)?", re.IGNORECASE)
_PIECE_BYTES = 1 << 20
# (space) of NRRD files whose axes are the patient's, with or without "-time"; others are a scanner's, or nobody's.
_PATIENT_SPACES = ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")
_NIFTI_ONE_FILE = "1"  # of nifti_type: voxels behind their header; SimpleITK does not read NIfTI-2
_NIFTI_BITS = {2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64}  # by datatype

Fields = Mapping[str, str]  # of text headers by name, in lower case and without spaces


@dataclass(frozen=True, slots=True)
class Voxels:
    """Where a file's voxels lie in it, and what its header says of their place in the patient."""

    path: Path  # of the header's own file, or of another one
    offset_bytes: int  # where they begin, or what is compressed does
    packing: Literal["none", "gzip", "zlib", "other"]  # other: nothing can be said of their length before they are read
    skipped_bytes: int  # before them, in what is compressed
    stored_bits: int | None  # of a sample; None: as many as once it is read
    whole: bool  # SimpleITK cannot read slices one by one
    in_parts: bool  # SimpleITK reads what is there when the end is missing
    placed: bool
    spaced: bool


def nifti_voxels(path: Path, fields: Fields) -> Voxels:
    """Find the voxels of a NIfTI file. fields: of its header, as SimpleITK names them.

    Raises DecodeError if they lie in another file.
    """
    start = float(fields["vox_offset"])
    if fields["nifti_type"] != _NIFTI_ONE_FILE or not 0 <= start <= MAX_EXTENSION_BYTES:
        raise DecodeError("a NIfTI header for voxels in another place")
    packed = path.name.lower().endswith(".gz")
    return Voxels(
        path=path,
        offset_bytes=0 if packed else int(start),
        packing="gzip" if packed else "none",
        skipped_bytes=int(start) if packed else 0,
        stored_bits=_NIFTI_BITS.get(int(fields["datatype"])),
        whole=packed,
        in_parts=True,
        placed=int(fields["qform_code"]) > 0 or int(fields["sform_code"]) > 0,
        spaced=0 not in _nifti_steps(path, packed)[: int(fields["dim[0]"])],
    )


def nrrd_voxels(path: Path) -> Voxels:
    """Find the voxels of an NRRD file. Raises DecodeError if its header is too long, ambiguous, or leads astray."""
    head, is_all = _head_of(path)
    end = _BLANK_LINE.search(head)
    if end is None and not is_all:
        raise DecodeError(f"no end of its header within {MAX_HEADER_BYTES} bytes")
    length = end.end() if end else len(head)
    _magic, *lines = _lines(head[:length]) or [""]
    fields = _fields([line for line in lines if not line.startswith("#") and ":=" not in line])
    named = fields.get("datafile")
    skips = "byteskip" in fields or "lineskip" in fields
    return Voxels(
        path=path if named is None else _data_file(path, named),
        offset_bytes=length if named is None else 0,
        packing="other" if skips else _NRRD_PACKINGS.get(fields.get("encoding", "").lower(), "other"),
        skipped_bytes=0,
        stored_bits=None,
        whole=True,
        in_parts=False,
        placed=fields.get("space", "").lower().removesuffix("-time") in _PATIENT_SPACES,
        spaced="spacedirections" in fields or "spacings" in fields,
    )


def meta_voxels(path: Path) -> Voxels:
    """Find the voxels of a MetaImage file. Raises DecodeError if its header is too long, ambiguous, or leads astray."""
    head, _ = _head_of(path)
    end = _DATA_FILE_LINE.search(head)
    if end is None:
        raise DecodeError(f"no ElementDataFile within {MAX_HEADER_BYTES} bytes")
    fields = _fields(_lines(head[: end.end()]))
    if list(fields)[-1] != "elementdatafile":
        raise DecodeError("its header can be read in two ways")
    named = fields["elementdatafile"]
    is_local = named.lower() == "local"
    packing = _meta_packing(fields)
    return Voxels(
        path=path if is_local else _data_file(path, named),
        offset_bytes=end.end() if is_local else 0,
        packing=packing,
        skipped_bytes=0,
        stored_bits=None,
        whole=packing != "none",
        in_parts=packing == "none",
        placed=any(name in fields for name in ("transformmatrix", "rotation", "orientation")),
        spaced="elementspacing" in fields or "elementsize" in fields,
    )


def count_stored_bytes(voxels: Voxels, needed: int) -> int:
    """Count the bytes of voxels that are in the file, up to `needed`.

    Raises DecodeError if they are compressed and damaged.
    """
    if voxels.packing == "other":
        return needed
    if voxels.packing == "none":
        return min(needed, max(0, voxels.path.stat().st_size - voxels.offset_bytes))
    count, most = 0, voxels.skipped_bytes + needed
    try:
        with voxels.path.open("rb") as file:
            file.seek(voxels.offset_bytes)
            for piece in _inflated(file) if voxels.packing == "zlib" else _unzipped(file):
                count += len(piece)
                if count > most:
                    break
    except EOFError:
        pass  # the end is missing; what comes before it is right as far as can be told
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DecodeError("its compressed bytes are damaged") from error
    return max(0, min(count, most) - voxels.skipped_bytes)


# --- headers -----------------------------------------------------------------------------------------------------

_NRRD_PACKINGS: Mapping[str, Literal["none", "gzip"]] = {"raw": "none", "gzip": "gzip", "gz": "gzip"}


def _nifti_steps(path: Path, packed: bool) -> tuple[float, ...]:
    """Read pixdim[1] to pixdim[3], since SimpleITK makes 1 of 0."""
    with gzip.open(path) if packed else path.open("rb") as file:
        head = file.read(348)
    order = "<" if head[0] else ">"  # the header's own length comes first
    return struct.unpack_from(f"{order}3f", head, 80)


def _meta_packing(fields: Fields) -> Literal["none", "zlib", "other"]:
    if fields.get("headersize", "0") != "0" or not _is_true(fields.get("binarydata", "True")):
        return "other"
    return "zlib" if _is_true(fields.get("compresseddata", "")) else "none"


def _is_true(value: str) -> bool:
    return value[:1] in ("T", "t", "1")  # as MetaIO takes it


def _data_file(path: Path, named: str) -> Path:
    """Find the file that a header names for its voxels: it lies in the header's folder, or deeper."""
    if not leads_elsewhere(path.name):
        raise DecodeError("names another file for its voxels, as only .mhd and .nhdr may")
    if "%" in named or _LIST.fullmatch(named):
        raise DecodeError("its voxels lie in several files")
    folder = path.parent.resolve()
    found = (folder / named).resolve()
    if not found.is_relative_to(folder):
        raise DecodeError("names a file out of its folder for its voxels")
    if not found.is_file():
        raise DecodeError("the file that it names for its voxels is not there")
    return found


def _head_of(path: Path) -> tuple[bytes, bool]:
    """Read the start of a file, and tell whether that is all of it."""
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
        return head, not file.read(1)


def _lines(head: bytes) -> list[str]:
    text = head.decode("utf-8", "surrogateescape")  # it may name a file
    if _AMBIGUOUS.search(text):
        raise DecodeError("control characters in its header")
    return [line for line in map(str.strip, text.split("\n")) if line]


def _fields(lines: list[str]) -> Fields:
    fields: dict[str, str] = {}
    for line in lines:
        parts = _FIELD.fullmatch(line)
        name = "".join(parts[1].lower().split()) if parts else ""
        if parts is None or name in fields:
            raise DecodeError("its header can be read in two ways")
        fields[name] = parts[2].strip()
    return fields


# --- compressed voxels -------------------------------------------------------------------------------------------


def _unzipped(file: IO[bytes]) -> Iterator[bytes]:
    """Inflate a gzip stream piece by piece, and compare it with its check sum. Raises EOFError if it has no end."""
    with gzip.open(file) as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    """Inflate a zlib stream in the same way."""
    inflater = zlib.decompressobj()
    while not inflater.eof:
        waiting = inflater.unconsumed_tail or file.read(_PIECE_BYTES)
        if not waiting:
            raise EOFError
        yield inflater.decompress(waiting, _PIECE_BYTES)
