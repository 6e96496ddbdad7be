"""Writes private files whole or not at all. Knows nothing of what is in them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from medvl.errors import OutputError

PARTIAL = ".part"  # a file being written; left behind only by a crash


def write_private(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file for its owner only (0600), through a temporary file, a flush to disk and a rename.

    Missing folders are made for their owner only (0700). A reader sees the old file or the new one, never a part, and
    a crash at any moment leaves one of the two. durable: False spares the flush; loss of power may then cost the file.
    Raises OutputError.
    """
    try:
        make_private_folder(path.parent)
        _replace(path, content, durable)
    except OSError as error:
        raise cannot_write(path, error) from error


def make_private_folder(folder: Path) -> None:
    """Make a folder and its missing parents, mode 0700. Raises OSError."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=0o700, exist_ok=True)


def cannot_write(path: Path, error: OSError) -> OutputError:
    """Say that a path cannot be written, and what helps."""
    return OutputError(
        f"{Path(*path.parts[-3:])} cannot be written: {error.strerror or error}",
        expected="The output folder must be writable and have free space",
        todo="Free some space or choose another folder with --output, then run again; finished readings are kept",
    )


def _replace(path: Path, content: bytes, durable: bool) -> None:
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent
    )  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
