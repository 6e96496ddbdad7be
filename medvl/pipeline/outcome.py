"""What a run comes to: study by study, and the exit status of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medvl.errors import InputError, ReadingError
from medvl.report.document import ReportStatus

Status = ReportStatus | Literal["failed"]


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """What became of one study."""

    key: str
    patient_key: str
    status: Status
    page: Path | None
    slices_read: int
    slices_found: int
    finding_count: int
    chunks_read_now: int
    chunks_known: int
    seconds: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What became of a run."""

    studies: tuple[StudyOutcome, ...]
    index: Path
    file_count: int
    unread: tuple[tuple[str, str], ...]  # file and reason, of files that belong to no study
    lost_count: int = 0  # of those, how many may be images that should have been read

    @property
    def exit_status(self) -> int:
        """0: everything read; 3: nothing could be; 4: read in part, run again to resume."""
        statuses = {study.status for study in self.studies}
        if statuses <= {"nothing", "failed"}:
            return InputError.exit_status
        refused = any(study.status == "nothing" and study.slices_found for study in self.studies)
        return ReadingError.exit_status if self.lost_count or refused or statuses & {"partial", "failed"} else 0
