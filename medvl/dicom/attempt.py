"""Reads one file's header, or says why that is not possible."""

from __future__ import annotations

from dataclasses import dataclass

from medvl.dicom.instance import Instance, read_instance
from medvl.dicom.source import is_volume
from medvl.dicom.volumes import read_volume
from medvl.errors import InputError
from medvl.records import Source


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a file's header cannot be read."""

    reason: str
    passing: bool = False  # a failure of the disk, or of a stack that callers had filled; another time it may go well


def try_instance(source: Source) -> Instance | Unreadable:
    """Read one file's header. What else is raised is a bug of ours, and names the file."""
    try:
        return read_volume(source) if is_volume(source) else read_instance(source)
    except InputError as error:
        return Unreadable(error.found, isinstance(error.__cause__, OSError | RecursionError | MemoryError))
    except Exception as error:
        error.add_note(f"while reading {source.name}")
        raise
