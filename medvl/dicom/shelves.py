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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import medvl
from medvl.dicom.attempt import Unreadable
from medvl.dicom.coding import Instances, decode_instances, encode_instances
from medvl.dicom.instance import Instance, located
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

Stamp = tuple[int, ...]  # size in bytes, modified and changed in ns, inode

_NOTHING: tuple[None, int] = (None, 0)


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
    rows: dict[str, tuple[Stamp, int | Instance | Unreadable]] = field(default_factory=dict)  # by name; int: in `kept`
    kept: Instances = field(default_factory=Instances)
    changed: bool = False

    def find(self, key: str, source: Source, stamp: Stamp) -> Instance | Unreadable | None:
        """Return what was read from a file, if it is still the same."""
        known, found = self.rows.get(key, _NOTHING)
        if known != stamp:
            return None
        if isinstance(found, int):
            return self.kept.take(found, source)
        return found if isinstance(found, Unreadable) else located(found, source)

    def keep(self, key: str, stamp: Stamp | None, found: Instance | Unreadable) -> None:
        """Remember what was read from a file, or forget it where it may be different the next time.

        stamp: from before it was read; None: it may change without another one.
        """
        if stamp is None or (isinstance(found, Unreadable) and found.passing):
            self._forget([key])
            return
        self.rows[key] = stamp, found
        self.changed = True

    def save(self, place: str) -> bool:
        """Write the shelf if anything on it is new, without the files that are gone. Tell whether it was written."""
        if not self.changed:
            return False
        with suppress(OSError):  # members of an archive stay as long as it does
            self._forget(self.rows.keys() - {each.name for each in Path(place).iterdir()})
        content = json.dumps(self._tables(), separators=(",", ":")).encode()
        head = f"{format_digest()} {_digest(content)}\n".encode()
        try:
            write_private(self.file, head + content, durable=False)
        except OutputError:  # a full disk must not cost a report
            return False
        return True

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.changed |= self.rows.pop(key, None) is not None

    def _tables(self) -> list[Any]:
        """Tell names, stamps, the reasons of what cannot be read, which comes first, and the instances."""
        rows = [
            (key, stamp, self.kept.told(found) if isinstance(found, int) else found)
            for key, (stamp, found) in self.rows.items()
        ]
        refused = [(key, stamp, found) for key, stamp, found in rows if isinstance(found, Unreadable)]
        read = [(key, stamp, found) for key, stamp, found in rows if not isinstance(found, Unreadable)]
        names, stamps, _ = zip(*refused, *read, strict=True) if refused or read else ((), (), ())
        reasons = [found.reason for _, _, found in refused]
        return [names, list(zip(*stamps, strict=True)), reasons, encode_instances(found for _, _, found in read)]


def stamp_of(path: str) -> Stamp | None:
    """Say by what a file is known to be unchanged; None if it was changed so lately that it cannot be told."""
    try:
        facts = os.stat(path)  # noqa: PTH116  # a third of pathlib's time, for every file of an archive
    except OSError:
        return None
    modified, changed, settled = facts.st_mtime_ns, facts.st_ctime_ns, time.time_ns() - SETTLED_NS
    return (facts.st_size, modified, changed, facts.st_ino) if modified <= settled >= changed else None


@cache
def format_digest() -> str:
    """Sum up the code that decides what is remembered; a shelf of any other is not read."""
    package, reader = Path(medvl.__file__).parent, find_spec("pydicom")
    # By the time it was installed, since asking for its version takes as long as all the rest.
    digest = blake2b(str(reader and Path(str(reader.origin)).stat().st_mtime_ns).encode(), digest_size=16)
    for file in sorted([*(package / "dicom").glob("*.py"), package / "records.py", package / "text.py"]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(file: Path) -> Shelf:
    head, _, content = file.read_bytes().partition(b"\n")
    if head.decode() != f"{format_digest()} {_digest(content)}":
        raise ValueError
    names, stamps, reasons, tables = json.loads(content)
    kept = decode_instances(tables)
    found = [*map(Unreadable, reasons), *range(len(kept))]
    rows = zip(names, zip(zip(*stamps, strict=True), found, strict=True), strict=True)
    return Shelf(file, dict(rows), kept)


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
