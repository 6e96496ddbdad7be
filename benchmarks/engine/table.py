"""What was measured, as one table: each figure beside the card's limit, the goals beside what was reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.engine.limits import Limit, Rates
from benchmarks.engine.work import Work
from medvl.reader.precision import LoadedPrecision

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Row:
    """What one way of reading took; None: not measured."""

    name: str = ""
    precision: LoadedPrecision = "bf16"
    vision_s: float | None = None
    prefill_s: float | None = None
    step_s: float | None = None  # a decode step of all chunks
    lone_step_s: float | None = None  # of one chunk
    total_s: float | None = None  # from grey pictures to the last reply
    peak_bytes: int | None = None  # the most torch handed out at one moment
    reserved_bytes: int | None = None  # the most torch held
    predicted_bytes: int | None = None  # of peak_bytes, by the plan
    capture_s: float | None = None  # making slots and graph, part of the total
    start_s: float | None = None  # compiling and warming up, not part of the total
    note: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure to reach, and what was reached."""

    what: str
    goal: float
    reached: float
    unit: str
    least: float = 0.0

    @property
    def verdict(self) -> str:
        """Met, or by how much it was missed."""
        if self.reached < self.least:
            return f"missed: {self.reached:.3g} {self.unit}, which must not be under {self.least:g}"
        over = self.reached / self.goal - 1
        return "met" if over <= 0 else f"missed by {over:.0%}"


@dataclass(frozen=True, slots=True)
class Report:
    """One run of the benchmark."""

    machine: Mapping[str, str]
    shape: str
    work: Work
    prompt_tokens: int
    rates: Rates
    limits: Mapping[LoadedPrecision, Limit]
    rows: Sequence[Row]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values, the ratios to the limits and the goals included."""
        ratios = {row.name: self.ratios(row) for row in self.rows}
        goals = [asdict(goal) | {"verdict": goal.verdict} for goal in self.goals()]
        return asdict(self) | {"ratios": ratios, "goals": goals}

    def ratios(self, row: Row) -> dict[str, float]:
        """Return how many times its limit each measured figure of a row is."""
        limit = self.limits[row.precision]
        measured = {
            "vision_s": (row.vision_s, limit.vision_s),
            "prefill_s": (row.prefill_s, limit.prefill_s),
            "step_s": (row.step_s, limit.step_s),
            "lone_step_s": (row.lone_step_s, limit.lone_step_s),
            "total_s": (row.total_s, limit.total_s(self.work)),
        }
        return {name: value / least for name, (value, least) in measured.items() if value is not None}

    def goals(self) -> list[Goal]:
        """Compare the engine's int8 row with the goals of the 8B shape; none if it did not run at full size."""
        row = next((row for row in self.rows if row.name == "ours-int8" and not row.failure), None)
        if row is None or self.shape != "8b" or self.work != Work():
            return []
        return list(self._goals(row))

    def _goals(self, row: Row) -> Iterator[Goal]:
        ratios = self.ratios(row)
        wanted = (
            ("300 slices from grey pictures to the last reply", 7.0, row.total_s, "s"),
            ("the same, times the computed limit", 2.0, ratios.get("total_s"), "×"),
            ("decode step, 30 chunks", 9.0, _times(row.step_s, 1000), "ms"),
            ("decode step, one chunk", 4.0, _times(row.lone_step_s, 1000), "ms"),
            ("the same, times the computed limit (70 % of the bandwidth)", 1 / 0.7, ratios.get("lone_step_s"), "×"),
            ("vision and prefill of 300 slices", 3.3, _sum(row.vision_s, row.prefill_s), "s"),
        )
        for what, goal, reached, unit in wanted:
            if reached is not None:
                yield Goal(what, goal, reached, unit)
        if row.predicted_bytes and row.peak_bytes:
            over = 100 * (row.predicted_bytes / row.peak_bytes - 1)
            yield Goal("peak memory predicted over measured, never under", 5.0, over, "%")


def render_markdown(report: Report) -> str:
    """Write the report as a page."""
    return (
        "\n".join([*_heading(report), "", *_table(report), "", *_limits(report), "", *_goals(report)]).rstrip() + "\n"
    )


def _heading(report: Report) -> Iterator[str]:
    work = report.work
    yield f"# Reading {work.slices} slices with the {report.shape} shape, random weights"
    yield ""
    yield ", ".join(f"{name} {value}" for name, value in report.machine.items()) + "."
    yield (
        f"{work.chunks} chunks of {work.pictures} slices of {work.size_px}², {report.prompt_tokens} tokens a prompt, "
        f"{work.new_tokens} new tokens each. In brackets: times the computed limit of the same precision."
    )


def _table(report: Report) -> Iterator[str]:
    chunks = report.work.chunks
    names = ("vision s", "prefill s", f"step of {chunks}, ms", "step of 1, ms", "total s", "peak GiB")
    yield f"| row | {' | '.join(names)} | |"
    yield "|---|" + "--:|" * len(names) + "---|"
    for row in report.rows:
        yield f"| {row.name} | {' | '.join(_cells(report, row))} | {_remark(row)} |"


def _cells(report: Report, row: Row) -> Iterator[str]:
    ratios = report.ratios(row)
    for name, factor, digits in (
        ("vision_s", 1, 2),
        ("prefill_s", 1, 2),
        ("step_s", 1000, 2),
        ("lone_step_s", 1000, 2),
        ("total_s", 1, 1),
    ):
        value = _times(getattr(row, name), factor)
        yield "–" if value is None else f"{value:,.{digits}f} ({ratios[name]:,.1f}×)"
    yield "–" if not row.peak_bytes else f"{row.peak_bytes / _GIB:.1f}"


def _remark(row: Row) -> str:
    if row.failure:
        return f"failed: {row.failure}"
    capture = f"; slots and graph {row.capture_s:.1f} s of it" if row.capture_s is not None else ""
    start = f"; {row.start_s:.0f} s before for a first start" if row.start_s is not None else ""
    return row.note + capture + start


def _limits(report: Report) -> Iterator[str]:
    rates = report.rates
    yield (
        f"Measured in the same run: copy {rates.bytes_per_s / 1e12:.3g} TB/s read and written; matrix products "
        f"{rates.operations_per_s / 1e12:.3g} TFLOP/s (square), {rates.prefill_operations_per_s / 1e12:.3g} TFLOP/s "
        "(one prompt, gate and up)."
    )
    yield ""
    yield "| limit | vision s | prefill s | step of all, ms | step of 1, ms | total s |"
    yield "|---|--:|--:|--:|--:|--:|"
    for precision, limit in report.limits.items():
        steps = f"{limit.step_s * 1000:.2f} | {limit.lone_step_s * 1000:.2f}"
        total = limit.total_s(report.work)
        yield f"| {precision} | {limit.vision_s:.2f} | {limit.prefill_s:.2f} | {steps} | {total:.2f} |"


def _goals(report: Report) -> Iterator[str]:
    if goals := report.goals():
        yield "| goal | wanted | reached | |"
        yield "|---|--:|--:|---|"
    for goal in goals:
        yield f"| {goal.what} | ≤ {goal.goal:.3g} {goal.unit} | {goal.reached:.3g} {goal.unit} | {goal.verdict} |"


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
