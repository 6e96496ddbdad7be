"""Computes what was read and what was not, ready to be drawn: every frame is in exactly one run or group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from medvl.report.document import ReportDocument, SeriesReport, SliceFate, ViewReport


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring slices with one fate in one view."""

    first: int  # slice numbers, inclusive
    last: int
    count: int
    chunks: tuple[int, ...]  # 0-based; empty: not read
    slab_slice_count: int
    reason: str  # why not read; may be empty when only this view left the slices out


@dataclass(frozen=True, slots=True)
class Span:
    """The slices one chunk or one finding reaches over, inclusive."""

    index: int  # of the chunk, 0-based; of the finding, its number
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Strip:
    """One view of a series from its first to its last slice."""

    view: ViewReport
    first: int
    last: int
    positions_mm: tuple[float | None, float | None]  # of the first and last slice
    runs: tuple[Run, ...]
    chunks: tuple[Span, ...]
    findings: tuple[Span, ...]

    @property
    def slice_count(self) -> int:
        """Slices of the stack."""
        return sum(run.count for run in self.runs)

    @property
    def read_count(self) -> int:
        """Slices the model saw in this view."""
        return sum(run.count for run in self.runs if run.chunks)

    @property
    def slab_slice_count(self) -> int:
        """Slices averaged into one picture, at most."""
        return max(run.slab_slice_count for run in self.runs)

    @property
    def length(self) -> int:
        """Slice numbers from end to end, the unit the strip is drawn in."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class ReasonGroup:
    """Files or frames not read for the same reason."""

    reason: str
    names: tuple[str, ...]  # each once
    count: int  # frames


@dataclass(frozen=True, slots=True)
class SeriesCoverage:
    """One series with its strips and the frames that have no place in its stack."""

    series: SeriesReport
    strips: tuple[Strip, ...]
    outside: tuple[ReasonGroup, ...]
    read_count: int


def coverage_of(document: ReportDocument) -> tuple[SeriesCoverage, ...]:
    """Compute the coverage of every series, in the document's order."""
    return tuple(_series_coverage(document, series) for series in document.series)


def group_by_reason(unread: Iterable[tuple[str, str, int]]) -> tuple[ReasonGroup, ...]:
    """Group (name, reason, frame count) by reason, the reasons in order of first appearance."""
    groups: dict[str, dict[str, int]] = {}
    for name, reason, count in unread:
        names = groups.setdefault(reason, {})
        names[name] = names.get(name, 0) + count
    return tuple(ReasonGroup(reason, tuple(names), sum(names.values())) for reason, names in groups.items())


def _series_coverage(document: ReportDocument, series: SeriesReport) -> SeriesCoverage:
    placed = [fate for fate in series.slices if fate.slice is not None]
    placed.sort(key=_number)
    # Without a view there is no strip to draw, so the reasons of the whole series are listed instead.
    listed = [fate for fate in series.slices if fate.slice is None or not series.views]
    return SeriesCoverage(
        series=series,
        strips=tuple(_strip(document, series, view, placed) for view in series.views if placed),
        outside=group_by_reason((fate.file, fate.not_read_because, 1) for fate in listed if not fate.read_in),
        read_count=sum(bool(fate.read_in) for fate in series.slices),
    )


def _strip(document: ReportDocument, series: SeriesReport, view: ViewReport, placed: list[SliceFate]) -> Strip:
    return Strip(
        view=view,
        first=_number(placed[0]),
        last=_number(placed[-1]),
        positions_mm=(placed[0].position_mm, placed[-1].position_mm),
        runs=tuple(_run(list(fates), view) for _, fates in groupby(placed, key=lambda fate: _fate_in(fate, view))),
        chunks=_chunk_spans(placed, view),
        findings=tuple(
            Span(finding.number, finding.first_slice, finding.last_slice)
            for finding in document.findings
            if finding.series_uid == series.uid and finding.view == view.name
        ),
    )


def _fate_in(fate: SliceFate, view: ViewReport) -> tuple[tuple[int, ...], int, str]:
    reads = [read for read in fate.read_in if read.view == view.name]
    chunks = tuple(sorted({read.chunk for read in reads}))
    return chunks, max((read.slab_slice_count for read in reads), default=0), "" if reads else fate.not_read_because


def _run(fates: list[SliceFate], view: ViewReport) -> Run:
    chunks, slab_slice_count, reason = _fate_in(fates[0], view)
    return Run(_number(fates[0]), _number(fates[-1]), len(fates), chunks, slab_slice_count, reason)


def _chunk_spans(placed: list[SliceFate], view: ViewReport) -> tuple[Span, ...]:
    numbers: dict[int, list[int]] = {}
    for fate in placed:
        for read in fate.read_in:
            if read.view == view.name:
                numbers.setdefault(read.chunk, []).append(_number(fate))
    return tuple(Span(chunk, min(of), max(of)) for chunk, of in sorted(numbers.items()))


def _number(fate: SliceFate) -> int:
    return fate.slice or 0
