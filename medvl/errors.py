"""What can go wrong, in words a user can act on.

    MedvlError                 shown as one sentence, never as a traceback
    ├── SettingsError     2    a flag or a prompt file asks for something impossible
    ├── InputError        3    nothing readable where the user pointed
    │   ├── SeriesError   3    one series cannot be put in order
    │   └── PixelError    3    one frame cannot be turned into pixels
    │       └── WindowError    a window that no picture can be made with
    ├── ReadingError      4    part of the study was not read; run again to resume
    ├── ModelError        5    the model cannot be loaded
    │   ├── PrecisionError     its weights cannot be had in these numbers; the caller may try bf16
    │   ├── OutOfMemoryError   the model did not fit; the caller may try less at once
    │   └── TooLargeError      one request is more than the reader takes; the caller may ask for less in each
    └── OutputError       6    the report cannot be written

The number is the exit status. A message has three parts: what was found, what was expected, what to do.
Messages may carry UIDs and paths relative to the input, never a patient's name.
"""

from __future__ import annotations


class MedvlError(Exception):
    """An error the user can do something about."""

    exit_status = 1

    def __init__(self, found: str, *, expected: str = "", todo: str = "") -> None:
        """found, expected, todo: sentences without a closing full stop."""
        super().__init__(found, expected, todo)
        self.found = found
        self.expected = expected
        self.todo = todo

    def __str__(self) -> str:
        return " ".join(f"{part}." for part in (self.found, self.expected, self.todo) if part)


class SettingsError(MedvlError):
    """A flag, settings value or prompt file that cannot be used."""

    exit_status = 2


class InputError(MedvlError):
    """No readable image where the user pointed."""

    exit_status = 3


class SeriesError(InputError):
    """A series whose frames cannot be put in order."""


class PixelError(InputError):
    """A frame whose pixels cannot be decoded."""


class WindowError(PixelError):
    """A window no picture can be made with."""


class ReadingError(MedvlError):
    """Part of a study was not read."""

    exit_status = 4


class ModelError(MedvlError):
    """The model cannot be loaded or used."""

    exit_status = 5


class PrecisionError(ModelError):
    """Weights of this precision cannot be loaded on this machine; bf16 ones can."""


class OutOfMemoryError(ModelError):
    """A batch of readings did not fit in memory; fewer or smaller ones may."""


class TooLargeError(ModelError):
    """One request holds more than the reader takes; one with fewer pictures may not."""

    def __init__(self, found: str, *, too_many: int, expected: str = "", todo: str = "") -> None:
        """too_many: the fewest pictures that are known to be too many; 0 if the text alone is."""
        super().__init__(found, expected=expected, todo=todo)
        self.too_many = too_many


class OutputError(MedvlError):
    """A report, ledger or folder cannot be written."""

    exit_status = 6
