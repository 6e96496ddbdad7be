"""Quantised weights kept on disk for the next start: where they lie, whether they are current, how they get there.

They lie in a folder of medvl's own store, one file for each model and precision, and are only ever a copy: whatever is
wrong with one, the checkpoint is quantised afresh. Imports neither torch nor transformers.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from filelock import FileLock, Timeout

from medvl.files import PARTIAL, make_private_folder
from medvl.reader.checkpoint import TensorPlace, fingerprint, list_shards, read_weight_file

THREAD = "medvl-kept"  # the one that flushes the file to disk while the weights are already in use
_FOLDER = ".kept"
_SUFFIX = ".safetensors"
_FORMAT = "medvl kept weights 1"  # another number makes every older file stale
_ROOM = 1.2  # times the file's size must be free


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where quantised weights may be kept, and who is told of it in a sentence."""

    store: Path
    note: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class KeptForm:
    """The place of one model's quantised weights, written or not."""

    path: Path
    key: str  # what they were made from

    def tensors(self) -> tuple[TensorPlace, ...]:
        """Return what the file holds; nothing if there is none, or a broken one, or one made from other weights."""
        try:
            file = read_weight_file(self.path)
        except (OSError, ValueError):
            return ()
        return file.tensors if file.metadata.get("made_from") == self.key else ()

    @property
    def metadata(self) -> dict[str, str]:
        """What the file must say of itself to be found again."""
        return {"format": _FORMAT, "made_from": self.key}

    def keep(self, size_bytes: int, write: Callable[[Path], None]) -> str:
        """Have the file written beside its place; flush and rename it in the background. Return what to tell the user.

        A crash at any moment leaves the old file or none. Nothing is written while another process does the same, or
        when the disk has less than 1.2 times the file's size free. A disk's trouble is told, not raised: the weights
        are loaded already.
        """
        lock = FileLock(self.path.with_suffix(".lock"), mode=0o600, thread_local=False)
        try:
            make_private_folder(self.path.parent)
            lock.acquire(timeout=0)
            self._draft.unlink(missing_ok=True)  # of a run that was killed
            self._check_room(size_bytes)
            write(self._draft)
        except Timeout:
            return ""
        except OSError as error:
            self._give_up(lock)
            return f"Quantised weights are not kept for the next start: {error.strerror or error}"
        except BaseException:
            self._give_up(lock)
            raise
        Thread(target=self._settle, args=(lock,), name=THREAD).start()
        told = f"Quantised weights, {size_bytes / 1e9:.1f} GB, are kept for the next start"
        return f"{told}; `medvl models rm {_shown_name(self.path)}` deletes them"

    def _check_room(self, size_bytes: int) -> None:
        free, needed = shutil.disk_usage(self.path.parent).free, int(_ROOM * size_bytes)
        if free < needed:
            told = f"{needed / 1e9:.1f} GB are needed in {self.path.parent}, {free / 1e9:.1f} GB are free"
            raise OSError(errno.ENOSPC, told)

    def _settle(self, lock: FileLock) -> None:
        try:
            with self._draft.open("rb+") as file:
                os.fsync(file.fileno())
            self._draft.replace(self.path)
            lock.release()
        except OSError:  # the next start finds nothing, and writes it again
            self._give_up(lock)

    def _give_up(self, lock: FileLock) -> None:
        with suppress(OSError):
            self._draft.unlink(missing_ok=True)
        lock.release()

    @property
    def _draft(self) -> Path:
        return self.path.with_name(f".{self.path.name}{PARTIAL}")


def kept_form(store: Path, name: str, folder: Path, precision: str) -> KeptForm:
    """Return the place for the quantised weights of the checkpoint in a folder.

    Their key holds each weight file's size and time of writing besides the checkpoint's fingerprint, which reads but
    samples of them. Raises ModelError if the checkpoint cannot be read.
    """
    digest = hashlib.sha256(f"{_FORMAT}\n{precision}\n{fingerprint(folder)}\n".encode())
    for shard in list_shards(folder):
        found = shard.stat()
        digest.update(f"{shard.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return KeptForm(store / _FOLDER / f"{_file_name(name)}@{precision}{_SUFFIX}", digest.hexdigest())


def list_kept(store: Path) -> tuple[tuple[str, int], ...]:
    """List what is kept: name as in "Qwen/Qwen3-VL-8B-Instruct@int8", and bytes."""
    files = sorted((store / _FOLDER).glob(f"[!.]*{_SUFFIX}"))
    return tuple((_shown_name(path), path.stat().st_size) for path in files)


def remove_kept(store: Path, name: str) -> int:
    """Delete all that is kept of a model, or the one form that is named so; return the bytes freed."""
    freed = 0
    for kept, size in list_kept(store):
        if name in (kept, kept.rpartition("@")[0]):
            path = store / _FOLDER / f"{_file_name(kept)}{_SUFFIX}"
            path.unlink()
            path.with_suffix(".lock").unlink(missing_ok=True)
            freed += size
    return freed


def _shown_name(path: Path) -> str:
    return path.stem.replace("--", "/")


def _file_name(name: str) -> str:
    return name.replace("/", "--")
