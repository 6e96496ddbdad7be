"""Finished readings on disk. One file per reading, named by what was asked, written once and never changed.

A key is the digest of everything that decides a reply: pixels, prompt, model, precision, generation settings. The
same question therefore finds its answer again after a crash, and any change asks anew. Knows nothing of what the facts
mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medvl.files import PARTIAL, cannot_write, make_private_folder, write_private
from medvl.records import ReaderIdentity, Reading, Token

FORMAT = 1

UnreadFrame = tuple[int, int, str]  # 0-based slab in the chunk, slice in the slab, reason


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished reading and what has to be remembered beside it.

    silhouettes: midline and width of the body in each picture, in px; None where no body could be seen.
    unread: frames that could not be shown.
    """

    reading: Reading
    reader: ReaderIdentity
    silhouettes: tuple[tuple[float, float] | None, ...] = ()
    unread: tuple[UnreadFrame, ...] = ()


def entry_key(facts: Mapping[str, Any]) -> str:
    """Return the tagged digest of canonical JSON; the tag makes a later change of algorithm visible."""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256-" + hashlib.sha256(f"medvl ledger {FORMAT}\n{canonical}".encode()).hexdigest()


class Ledger:
    """The finished readings in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str) -> Entry | None:
        """Return the entry of that key; None if there is none, or if its file cannot be used and must be made again."""
        try:
            stored = json.loads(self._path(key).read_text(encoding="utf-8"))
            return _entry(stored) if stored["key"] == key and stored["format"] == FORMAT else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def save(self, key: str, entry: Entry, facts: Mapping[str, Any]) -> None:
        """Write an entry so that a crash at any moment leaves either nothing or all of it.

        Raises OutputError if the folder cannot be written.
        """
        document = {"format": FORMAT, "key": key, "facts": dict(facts), **asdict(entry)}
        document["reading"]["tokens"] = [list(token) for token in entry.reading.tokens]
        # ASCII, since a reply cut inside a character may hold half of a surrogate pair.
        text = json.dumps(document, separators=(",", ":"))
        write_private(self._path(key), text.encode())

    def clear(self) -> None:
        """Forget every reading. Raises OutputError."""
        try:
            for path in self._folder.glob("sha256-*.json"):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self._folder, error) from error

    def __len__(self) -> int:
        return sum(1 for _ in self._folder.glob("sha256-*.json"))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


@contextmanager
def lock(folder: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a study's folder alone; a second run calls `on_wait` once and waits. The lock dies with its process.

    What a crashed run was writing into the folder is removed.
    """
    try:
        make_private_folder(folder)
        held = FileLock(folder / ".lock", mode=0o600)
        try:
            held.acquire(timeout=0)
        except Timeout:
            on_wait()
            held.acquire()
        for leftover in folder.glob(f".*{PARTIAL}"):
            leftover.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        held.release()


def _entry(stored: Mapping[str, Any]) -> Entry:
    reading, reader = stored["reading"], stored["reader"]
    tokens = tuple(Token(str(text), float(probability)) for text, probability in reading["tokens"])
    return Entry(
        reading=Reading(**{**reading, "tokens": tokens}),
        reader=ReaderIdentity(**{**reader, "versions": tuple((str(k), str(v)) for k, v in reader["versions"])}),
        silhouettes=tuple(each and (float(each[0]), float(each[1])) for each in stored["silhouettes"]),
        unread=tuple((int(slab), int(part), str(reason)) for slab, part, reason in stored["unread"]),
    )
