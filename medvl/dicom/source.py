"""Finds the files under what the user named, and opens them: folders, single files, a DICOMDIR, zip archives.

Nothing is ever written: zip members are read straight from the archive. Links that lead out of the folder and
paths of a DICOMDIR that do are listed, not followed.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from medvl.dicom.header import BROKEN, read_header
from medvl.errors import InputError
from medvl.records import Source, Unread
from medvl.text import clean_text

MAX_MEMBERS = 200_000  # of one archive
MAX_MEMBER_BYTES = 4 * 1024**3  # once inflated
_SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # of file managers; nobody misses them
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
            else:
                yield from _sources_of(Source(file, shown))


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


def _find_files(path: Path) -> Iterator[tuple[Path | str, str]]:
    """Yield (file, name), or (reason it is not read, name)."""
    if path.is_dir():
        yield from _walk(path)
    elif path.name.upper() == "DICOMDIR":  # a file-set's index always has this name (PS3.10 8.6)
        yield from _listed_in(path)
    else:
        yield path, path.name


def _walk(folder: Path) -> Iterator[tuple[Path | str, str]]:
    root = folder.resolve()
    unreadable: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=unreadable.append):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in [*links, *sorted(files)]:
            if name not in _SYSTEM_FILES:
                path = Path(parent, name)
                yield (_why_not_followed(path, root) or path), path.relative_to(folder).as_posix()
    for error in unreadable:
        yield f"folder cannot be read ({error.strerror})", os.path.relpath(error.filename, folder)


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


def _sources_of(source: Source) -> Iterator[Source | Unread]:
    """Yield the file itself, or the members when it is an archive."""
    if source.path.suffix.lower() != ".zip":
        yield source
        return
    try:
        members = _archive_of(source.path).infolist()
    except BROKEN as error:
        yield Unread(source, f"zip archive cannot be read ({type(error).__name__})")
        return
    if len(members) > MAX_MEMBERS:
        yield Unread(source, f"zip archive with {len(members)} members, more than {MAX_MEMBERS}")
        return
    for member in members:
        if not member.is_dir() and Path(member.filename).name not in _SYSTEM_FILES:
            yield _member_source(source, member)


def _member_source(archive: Source, member: zipfile.ZipInfo) -> Source | Unread:
    source = Source(archive.path, f"{archive.name}/{_shown(member.filename)}", member.filename)
    if member.flag_bits & 0x1:
        return Unread(source, "encrypted in the zip archive")
    if member.file_size > MAX_MEMBER_BYTES:
        return Unread(source, f"claims {member.file_size} bytes once inflated")
    return source


def _archive_of(path: Path) -> zipfile.ZipFile:
    facts = path.stat()
    return _open_archive(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=2)  # reading the directory of a large archive again for each member would be quadratic
def _open_archive(path: Path, _mtime_ns: int, _size: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


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
