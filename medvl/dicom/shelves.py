"""Remembers headers between runs: one file for each folder or archive that was scanned, in medvl's own folder.

What is remembered names patients, as the files themselves do, so it is for its owner only. A header is believed to be
unchanged while its file keeps size, times and inode. Shelves that are damaged, of another version of medvl or in the
way of nothing else are read as empty; one that cannot be written is not kept.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import medvl
from medvl.dicom.attempt import Unreadable
from medvl.dicom.coding import Common, Row, decode_instance, encode_instance, read_common
from medvl.dicom.instance import Instance
from medvl.errors import OutputError
from medvl.files import PARTIAL, write_private
from medvl.records import Source

MAX_BYTES = 512 * 1024**2  # about a million headers
MAX_AGE_S = 90 * 24 * 3600
# A file may change again without another time: FAT counts in steps of two seconds, and clocks of servers go wrong.
SETTLED_NS = 3 * 10**9
_TOUCHED_AFTER_S = 24 * 3600
_SUFFIX = ".headers"
_BROKEN = (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)

Stamp = list[int]  # size in bytes, modified and changed in ns, inode


class HeaderCache:
    """The shelves of one folder."""

    def __init__(self, folder: Path) -> None:
        """folder: made when first needed."""
        self.folder = folder

    def open(self, place: str) -> Shelf:
        """Open the shelf of a folder or an archive; an empty one where there is none that can be used."""
        file = self.folder / (blake2b(os.fsencode(os.path.realpath(place)), digest_size=16).hexdigest() + _SUFFIX)
        try:
            shelf = _read(file)
        except _BROKEN:
            return Shelf(file)
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > _TOUCHED_AFTER_S:
                os.utime(file)  # the oldest go first
        return shelf

    def tidy(self) -> None:
        """Remove shelves that were not used for long, then the oldest until the others are small enough."""
        now, left_bytes = time.time(), MAX_BYTES
        for modified, size, file in sorted(self._files(), reverse=True):
            left_bytes -= size
            if left_bytes < 0 or now - modified > MAX_AGE_S:
                with suppress(OSError):
                    file.unlink()

    def size_bytes(self) -> int:
        """Measure all shelves."""
        return sum(size for _, size, _ in self._files())

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        with suppress(OSError):
            for file in self.folder.iterdir():
                if file.suffix in (_SUFFIX, PARTIAL):  # parts are left behind by a crash only, and age as others do
                    with suppress(OSError):
                        facts = file.stat()
                        yield facts.st_mtime, facts.st_size, file


@dataclass(slots=True)
class Shelf:
    """The headers of one folder or archive."""

    file: Path
    rows: dict[str, tuple[Stamp, Row | str]] = field(default_factory=dict)  # by name; str: why it cannot be read
    common: Common = field(default_factory=Common)
    changed: bool = False
    outdated: bool = False  # `common` holds facts of files that have changed or gone

    def find(self, key: str, source: Source, stamp: Stamp) -> Instance | Unreadable | None:
        """Return what was read from a file, if it is still the same."""
        if key not in self.rows:
            return None
        try:
            known, row = self.rows[key]
            if known != stamp:
                return None
            return Unreadable(row) if isinstance(row, str) else decode_instance(row, source, self.common)
        except _BROKEN:
            return None

    def keep(self, key: str, stamp: Stamp | None, found: Instance | Unreadable) -> None:
        """Remember what was read from a file, or forget it where it may be different the next time.

        stamp: from before it was read; None: it may change without another one.
        """
        if stamp is None or (isinstance(found, Unreadable) and found.passing):
            self._forget([key])
            return
        row = found.reason if isinstance(found, Unreadable) else encode_instance(found, self.common)
        self.outdated |= key in self.rows
        self.rows[key] = stamp, row
        self.changed = True

    def save(self, place: str) -> bool:
        """Write the shelf if anything on it is new, without the files that are gone. Tell whether it was written."""
        if not self.changed:
            return False
        with suppress(OSError):  # members of an archive stay as long as it does
            self._forget(self.rows.keys() - {each.name for each in Path(place).iterdir()})
        if self.outdated:
            self._tell_anew()
        content = json.dumps([self.common.rows, self.rows], separators=(",", ":")).encode()
        head = f"{format_digest()} {_digest(content)}\n".encode()
        try:
            write_private(self.file, head + content, durable=False)
        except OutputError:  # a full disk must not cost a report
            return False
        return True

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self.rows.pop(key, None) is not None:
                self.changed = self.outdated = True

    def _tell_anew(self) -> None:
        """Leave out what nothing refers to any more: it may be all that is left of a patient."""
        anew, nowhere = Shelf(self.file), Source(Path(), "")
        for key, (stamp, _) in self.rows.items():
            if found := self.find(key, nowhere, stamp):
                anew.keep(key, stamp, found)
        self.rows, self.common = anew.rows, anew.common


def stamp_of(path: str) -> Stamp | None:
    """Say by what a file is known to be unchanged; None if it was changed so lately that it cannot be told."""
    try:
        facts = os.stat(path)  # noqa: PTH116  # a third of pathlib's time, for every file of an archive
    except OSError:
        return None
    if time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) < SETTLED_NS:
        return None
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


@cache
def format_digest() -> str:
    """Sum up the code that decides what is remembered; a shelf of any other is not read."""
    digest = blake2b(version("pydicom").encode(), digest_size=16)
    package = Path(medvl.__file__).parent
    for file in sorted([*(package / "dicom").glob("*.py"), package / "records.py", package / "text.py"]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(file: Path) -> Shelf:
    head, _, content = file.read_bytes().partition(b"\n")
    if head.decode() != f"{format_digest()} {_digest(content)}":
        raise ValueError
    common, rows = json.loads(content)
    return Shelf(file, {name: (stamp, row) for name, (stamp, row) in rows.items()}, read_common(common))


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
