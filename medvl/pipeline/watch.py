"""What a run tells whoever watches it. The terminal's progress bars are one watcher; a silent one is the default."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Hears of a run's progress. No call may raise or change the run."""

    def scanned(self, file_count: int) -> None:
        """Hear how many files have been looked at."""

    def study_begins(self, key: str, slice_count: int, chunk_count: int, chunks_known: int) -> None:
        """Hear what one study holds and how many of its chunks an earlier run finished."""

    def model_loads(self, model: str, fraction: float) -> None:
        """Hear how far the weights are loaded, from 0 to 1."""

    def chunk_ends(self, slice_count: int, finding_count: int) -> None:
        """Hear that a chunk is finished, by this run or an earlier one."""

    def study_ends(self, key: str) -> None:
        """Hear that a study's report is written."""

    def note(self, text: str) -> None:
        """Hear a sentence the user should see."""

    def close(self) -> None:
        """Hear that there is no more to come."""


class Silence:
    """A watcher that does nothing."""

    def scanned(self, file_count: int) -> None:
        """Ignore."""

    def study_begins(self, key: str, slice_count: int, chunk_count: int, chunks_known: int) -> None:
        """Ignore."""

    def model_loads(self, model: str, fraction: float) -> None:
        """Ignore."""

    def chunk_ends(self, slice_count: int, finding_count: int) -> None:
        """Ignore."""

    def study_ends(self, key: str) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""

    def close(self) -> None:
        """Ignore."""
