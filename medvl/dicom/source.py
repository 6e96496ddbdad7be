"""Finds the files under what the user named, and opens them: folders, single files, a DICOMDIR, zip archives.

Nothing is ever written: zip members are read straight from the archive. Links that lead out of the folder and
paths of a DICOMDIR that do are listed, not followed.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import IO

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from medvl.dicom.header import BROKEN, read_header
from medvl.errors import InputError
from medvl.records import Source, Unread
from medvl.text import clean_text

MAX_MEMBERS = 200_000  # of one archive
MAX_DIRECTORY_BYTES = 200 * MAX_MEMBERS  # of its list of members, which is read as a whole
MAX_MEMBER_BYTES = 4 * 1024**3  # once inflated
# Pictures deflate to a half or a third, empty ones to a thousandth (as far as deflate goes); those are never large.
MAX_INFLATION = 200  # of members above SMALL_MEMBER_BYTES
SMALL_MEMBER_BYTES = 64 * 1024**2
_SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # of file managers; nobody misses them
_VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
_HEADER_SUFFIXES = (".nhdr", ".mhd")
_END_RECORDS_BYTES = 22 + 65535 + 76  # the last record with its longest comment, and a zip64's two
_BUFFER_BYTES = 16 * 1024  # most headers end before


def find_sources(paths: Sequence[Path]) -> Iterator[Source | Unread]:
    """Find every file under `paths`, folder by folder in the order of their names.

    Names are relative to the path that the user gave, and led by that path's own name when there are several.
    Raises InputError when a path does not exist.
    """
    for path in paths:
        if not path.exists():
            raise InputError(
                f"There is no {_shown(str(path))}",
                expected="A folder, a DICOM file, a DICOMDIR or a zip is needed",
                todo="Check the path",
            )
        prefix = f"{path.resolve().name}/" if len(paths) > 1 and path.is_dir() else ""
        for file, name in _find_files(path):
            shown = prefix + _shown(name)
            if isinstance(file, str):
                yield Unread(Source(path, shown), file)
            elif name[-4:].lower() == ".zip":
                yield from _members_of(Source(file, shown))
            else:
                yield Source(file, shown)


def open_source(source: Source) -> IO[bytes]:
    """Open the bytes of one file or archive member, at their start, for reading; the caller closes them.

    Seekable; going back in a compressed member inflates it anew. Raises one of header.BROKEN.
    """
    if source.member is None:
        return source.path.open("rb", buffering=_BUFFER_BYTES)
    return _archive_of(source.path).open(source.member)


def source_size(source: Source) -> int:
    """Tell the length of a file or archive member in bytes without reading it."""
    if source.member is None:
        return source.path.stat().st_size
    return _archive_of(source.path).getinfo(source.member).file_size


def is_volume(source: Source) -> bool:
    """Tell by its name whether a file is NIfTI, NRRD or MetaImage, which SimpleITK reads."""
    return (source.member or str(source.path)).lower().endswith(_VOLUME_SUFFIXES)


def leads_elsewhere(name: str) -> bool:
    """Tell by its name whether a volume's header may leave the voxels to another file."""
    return name.lower().endswith(_HEADER_SUFFIXES)


def _find_files(path: Path) -> Iterator[tuple[Path | str, str]]:
    """Yield (file, name), or (reason it is not read, name)."""
    if path.is_dir():
        yield from _walk(path)
    elif because := _why_not_followed(path, path.resolve().parent):  # a pipe never ends, nor does /dev/zero
        yield because, path.name
    elif path.name.upper() == "DICOMDIR":  # a file-set's index always has this name (PS3.10 8.6)
        yield from _listed_in(path)
    else:
        yield path, path.name


def _walk(folder: Path) -> Iterator[tuple[Path | str, str]]:
    """Yield what is in a folder, then what is in the folders inside; links to folders come first, and are not entered.

    The system's listing says what kind most files are, so that ten thousand of them are not asked one by one.
    """
    root = folder.resolve()
    unreadable: list[tuple[str, OSError]] = []
    waiting = [(folder, "")]  # with what leads their names, the next one last
    while waiting:
        parent, lead = waiting.pop()
        try:
            with os.scandir(parent) as listing:
                entries = sorted(listing, key=attrgetter("name"))
        except OSError as error:
            unreadable.append((lead.rstrip("/") or ".", error))
            continue
        folders = [entry for entry in entries if _is_folder(entry)]
        links = [entry for entry in folders if entry.is_symlink()]
        for entry in [*links, *(entry for entry in entries if entry not in folders)]:
            if entry.name not in _SYSTEM_FILES:
                path = parent / entry.name
                ordinary = entry.is_file(follow_symlinks=False)
                yield path if ordinary else (_why_not_followed(path, root) or path), lead + entry.name
        waiting += [(parent / each.name, f"{lead}{each.name}/") for each in reversed(folders) if each not in links]
    for name, failure in unreadable:
        yield f"folder cannot be read ({failure.strerror})", name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _why_not_followed(path: Path, root: Path) -> str:
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        return "a link that leads out of the folder"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "a link to a folder"
    return "" if stat.S_ISREG(mode) else "not an ordinary file"


def _members_of(source: Source) -> Iterator[Source | Unread]:
    try:
        members = _archive_of(source.path).infolist()
    except BROKEN as error:
        yield Unread(source, f"zip archive cannot be read ({type(error).__name__})")
        return
    if len(members) > MAX_MEMBERS:
        yield Unread(source, f"zip archive with {len(members)} members, more than {MAX_MEMBERS}")
        return
    if sum(member.compress_size for member in members) > source_size(source):
        yield Unread(source, "zip archive whose members overlap")  # one byte would be inflated again and again
        return
    for member in members:
        if not member.is_dir() and Path(member.filename).name not in _SYSTEM_FILES:
            yield _member_source(source, member)


def _member_source(archive: Source, member: zipfile.ZipInfo) -> Source | Unread:
    source = Source(archive.path, f"{archive.name}/{_shown(member.filename)}", member.filename)
    if member.flag_bits & 0x1:
        return Unread(source, "encrypted in the zip archive")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a bound
        return Unread(source, "neither stored nor deflated in the zip archive")
    if member.file_size > MAX_MEMBER_BYTES:
        return Unread(source, f"claims {member.file_size} bytes once inflated")
    if member.file_size > max(SMALL_MEMBER_BYTES, MAX_INFLATION * member.compress_size):
        return Unread(source, f"claims to inflate from {member.compress_size} to {member.file_size} bytes")
    return source


def _archive_of(path: Path) -> zipfile.ZipFile:
    facts = path.stat()
    return _open_archive(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=2)  # reading the directory of a large archive again for each member would be quadratic
def _open_archive(path: Path, _mtime_ns: int, _size: int) -> zipfile.ZipFile:
    if _directory_bytes(path) > MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile("its list of members is too long")
    return zipfile.ZipFile(path)


def _directory_bytes(path: Path) -> int:
    """Tell how long a zip's list of members claims to be, 0 where there is none (APPNOTE 4.3.14 to 4.3.16)."""
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - _END_RECORDS_BYTES))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0:
        return 0
    size: int = struct.unpack_from("<L", tail, end + 12)[0]
    large = end - 76  # a zip64's own record and the locator that leads to it come before
    if large >= 0 and tail[large : large + 4] == b"PK\6\6":
        size = max(size, struct.unpack_from("<Q", tail, large + 40)[0])
    return size


def forget_archives() -> None:
    """Close the archives that were kept open for their next member."""
    _open_archive.cache_clear()


def _listed_in(index: Path) -> Iterator[tuple[Path | str, str]]:
    """Yield the files that a DICOMDIR refers to, inside its own folder only."""
    root = index.parent.resolve()
    for parts in _referenced_files(index):
        # Discs are often copied with their names in lower case.
        paths = [path for path in (root.joinpath(*parts), root.joinpath(*map(str.lower, parts))) if path.exists()]
        if not root.joinpath(*parts).resolve().is_relative_to(root):
            yield "the DICOMDIR points out of its folder", "/".join(parts)
        elif not paths:
            yield "listed in the DICOMDIR, but not there", "/".join(parts)
        else:
            yield (_why_not_followed(paths[0], root) or paths[0]), "/".join(parts)


def _referenced_files(index: Path) -> list[tuple[str, ...]]:
    keyword = "DirectoryRecordSequence"
    try:
        with index.open("rb") as stream:
            header = read_header(stream, index.stat().st_size, [tag_for_keyword(keyword) or 0])
        records: Sequence[Dataset] = header.dataset.get(keyword) or ()
        references = [record.get("ReferencedFileID") for record in records]
    except (InputError, *BROKEN) as error:
        raise InputError(
            f"{index.name} cannot be read ({type(error).__name__})", todo="Name its folder instead"
        ) from error
    return [(r,) if isinstance(r, str) else tuple(map(str, r)) for r in references if r]


def _shown(name: str) -> str:
    return clean_text(name, 1024)
