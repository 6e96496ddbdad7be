"""Runs the rows of the table, each precision's together so that a model is built once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from benchmarks.engine.limits import compute_limit, measure_rates
from benchmarks.engine.machine import Machine
from benchmarks.engine.models import SHAPES, Loaded, Workshop
from benchmarks.engine.stock import measure_batched, measure_compiled, measure_naive
from benchmarks.engine.table import Report, Row
from benchmarks.engine.work import Work
from medvl.reader.precision import LoadedPrecision

Say = Callable[[str], None]
Measure = Callable[[Loaded, Work, Machine], Row]


def _measure_ours(loaded: Loaded, work: Work, machine: Machine) -> Row:
    from benchmarks.engine.ours import measure_ours  # needs Triton on a GPU; the stock rows do not

    return measure_ours(loaded, work, machine)


ROWS: Mapping[str, tuple[LoadedPrecision, Measure]] = {
    "naive-int8": ("int8", measure_naive),
    "stock-bf16": ("bf16", measure_batched),
    "stock-int8": ("int8", measure_batched),
    "stock-nf4": ("nf4", measure_batched),
    "stock-compiled-bf16": ("bf16", measure_compiled),
    "ours-bf16": ("bf16", _measure_ours),
    "ours-int8": ("int8", _measure_ours),
    "ours-nf4": ("nf4", _measure_ours),
}
_ORDER: tuple[LoadedPrecision, ...] = ("bf16", "int8", "nf4")
DEFAULT_ROWS = tuple(name for name in ROWS if name != "stock-compiled-bf16")  # compiling takes a minute or more


def compare(shape_name: str, names: Sequence[str], work: Work, machine: Machine, say: Say) -> Iterator[Report]:
    """Yield the report after every row, with the rows so far."""
    shape = SHAPES[shape_name]
    workshop = Workshop(shape, machine)
    prompt_tokens = workshop.requests.prompt_tokens(work)
    rates = measure_rates(machine, shape, prompt_tokens)
    say(f"{machine.name}: {rates.bytes_per_s / 1e12:.2f} TB/s, {rates.best_operations_per_s / 1e12:.0f} TFLOP/s")
    limits = {each: compute_limit(shape, each, work, prompt_tokens, rates) for each in _ORDER}
    report = Report(machine.describe(), shape_name, work, prompt_tokens, rates, limits, ())
    models = _Models(workshop, machine, say)
    for name in _running_order(names):
        precision, measure = ROWS[name]
        row = _run(lambda p=precision, m=measure: m(models.get(p), work, machine), machine)  # type: ignore[misc]
        row = replace(row, name=name, precision=precision)
        say(f"{name}: " + (f"failed: {row.failure}" if row.failure else f"{row.total_s:.1f} s"))
        rows = sorted((*report.rows, row), key=lambda each: list(ROWS).index(each.name))
        report = replace(report, rows=tuple(rows))
        yield report


def _running_order(names: Sequence[str]) -> list[str]:
    """Sort rows so that each model is built once; ours first, as long as nobody has touched the model."""
    return sorted(set(names), key=lambda name: (_ORDER.index(ROWS[name][0]), not name.startswith("ours"), name))


def _run(measure: Callable[[], Row], machine: Machine) -> Row:
    try:
        row = measure()
    except Exception as error:  # whatever it is, the other rows are still worth having
        traceback.print_exc()
        row = Row(failure=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200])
    machine.release()
    return row


class _Models:
    """The model of one precision at a time."""

    def __init__(self, workshop: Workshop, machine: Machine, say: Say) -> None:
        self._workshop, self._machine, self._say = workshop, machine, say
        self._loaded: Loaded | None = None

    def get(self, precision: LoadedPrecision) -> Loaded:
        """Return the model in a precision."""
        if self._loaded is None or self._loaded.precision != precision:
            self._loaded = None  # its memory is needed
            self._machine.release()
            self._loaded = self._workshop.build(precision)
            self._say(f"{precision} model is there")
        return self._loaded
