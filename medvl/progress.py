"""Shows a run's progress: bars on a terminal, plain lines elsewhere. Writes to stderr; stdout is for results."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from medvl.pipeline.watch import Silence, Watcher
from medvl.text import counted

_PLAIN_EVERY_S = 5.0


class TerminalWatcher:
    """Live bars: scanning, loading weights, chunks with slices per second, time left and findings so far."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[extra]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._rate = _Rate(0)
        self._bars.start()

    def scanned(self, file_count: int) -> None:
        """Show the number of files looked at."""
        self._show("scan", "Scanning", None, file_count)

    def study_begins(self, key: str, slice_count: int, chunk_count: int, chunks_known: int) -> None:
        """Begin a bar of chunks."""
        self._drop("scan")
        self._drop("chunks")
        self._rate = _Rate(chunks_known)
        self.note(_study_line(key, slice_count, chunk_count, chunks_known))
        self._show("chunks", "Reading", chunk_count, 0)

    def model_loads(self, model: str, fraction: float) -> None:
        """Show how far the weights are loaded."""
        self._show("load", f"Loading {model}", 100, round(100 * fraction))
        if fraction >= 1:
            self._drop("load")
            self._rate.begin()

    def chunk_ends(self, slice_count: int, finding_count: int) -> None:
        """Move the bar of chunks by one."""
        self._rate.add(slice_count, finding_count)
        if "chunks" in self._tasks:
            self._bars.update(self._tasks["chunks"], advance=1, extra=self._rate.text)

    def study_ends(self, key: str) -> None:
        """Remove the bar of chunks."""
        self._drop("chunks")

    def note(self, text: str) -> None:
        """Print a sentence above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Leave the terminal clean."""
        self._bars.stop()

    def _show(self, name: str, text: str, total: float | None, completed: float) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(text, total=total, extra="")
        self._bars.update(self._tasks[name], completed=completed)

    def _drop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)


class PlainWatcher:
    """One line now and then, for log files and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = time.monotonic()
        self._chunks = self._done = 0
        self._rate = _Rate(0)
        self._loading = False

    def scanned(self, file_count: int) -> None:
        """Say the number of files, at intervals."""
        self._sometimes(f"Scanning: {counted(file_count, 'file')}")

    def study_begins(self, key: str, slice_count: int, chunk_count: int, chunks_known: int) -> None:
        """Say what the study holds."""
        self._chunks, self._done, self._rate = chunk_count, 0, _Rate(chunks_known)
        self.note(_study_line(key, slice_count, chunk_count, chunks_known))

    def model_loads(self, model: str, fraction: float) -> None:
        """Say that loading begins and ends."""
        if not self._loading:
            self.note(f"Loading {model}")
        self._loading = fraction < 1
        if fraction >= 1:
            self._rate.begin()

    def chunk_ends(self, slice_count: int, finding_count: int) -> None:
        """Say how far reading has come, at intervals."""
        self._done += 1
        self._rate.add(slice_count, finding_count)
        self._sometimes(f"Read {self._done} of {counted(self._chunks, 'chunk')}, {self._rate.text}")

    def study_ends(self, key: str) -> None:
        """Say that the report is written."""
        self.note(f"Study {key}: report written")

    def note(self, text: str) -> None:
        """Print a sentence."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to clean."""

    def _sometimes(self, text: str) -> None:
        if time.monotonic() - self._said >= _PLAIN_EVERY_S:
            self._said = time.monotonic()
            self.note(text)


def _study_line(key: str, slice_count: int, chunk_count: int, chunks_known: int) -> str:
    known = f", {counted(chunks_known, 'chunk')} known from an earlier run" if chunks_known else ""
    return f"Study {key}: {counted(slice_count, 'slice')} in {counted(chunk_count, 'chunk')}{known}"


class _Rate:
    """Slices per second of this run's own reading, and all findings of a study.

    known: chunks of an earlier run; they come first, and in no time.
    """

    def __init__(self, known: int) -> None:
        self._known = known
        self._slices = self._findings = 0
        self.begin()

    def begin(self) -> None:
        """Start the clock: neither loading nor known chunks count."""
        self._began = time.monotonic()

    def add(self, slices: int, findings: int) -> None:
        self._findings += findings
        if self._known:
            self._known -= 1
            self.begin()
        else:
            self._slices += slices

    @property
    def text(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-3)
        return f"{self._slices / seconds:.1f} slices/s, {counted(self._findings, 'finding')} so far"


def make_watcher(console: Console, *, quiet: bool) -> Watcher:
    """Return the watcher that suits where stderr goes."""
    if quiet:
        return Silence()
    return TerminalWatcher(console) if console.is_terminal else PlainWatcher(console)
