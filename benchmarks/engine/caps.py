"""Reads under a limit of memory as planned for it, and holds the plan against what torch really handed out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.engine.machine import Machine
from benchmarks.engine.models import SHAPES, Loaded, Workshop
from benchmarks.engine.ours import OpenedEngine
from benchmarks.engine.planned import count_text, plan_work, planned_limits
from benchmarks.engine.work import Work
from medvl.planning.memory import GIB
from medvl.planning.plan import Plan
from medvl.reader.precision import LoadedPrecision
from medvl.records import Request

_NEW_TOKENS = 64  # per reply at most: how long it gets changes the time more than the peak
_QUANTISED: tuple[LoadedPrecision, ...] = ("int8", "nf4")


def run_caps(
    shape_name: str, caps: Sequence[float], work: Work, machine: Machine, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Read the work under each limit (GiB) with the first model that fits by plan: int8, nf4, then smaller shapes."""
    work = replace(work, new_tokens=min(work.new_tokens, _NEW_TOKENS))
    shape, built = SHAPES[shape_name], _Built(machine)
    text_tokens = count_text(shape, work, Workshop(shape, machine).requests)  # shapes share a vocabulary
    for cap in sorted(caps, reverse=True):
        name, precision, plan = _choose(shape_name, work, text_tokens, cap)
        result = {"cap_gib": cap, "shape": name, **_plan_facts(plan)}
        if plan.fits:
            result |= _run_capped(built.get(name, precision), work, plan, cap, machine)
        say(", ".join(f"{key} {value}" for key, value in result.items()))
        yield result


def _choose(shape_name: str, work: Work, text_tokens: int, cap: float) -> tuple[str, LoadedPrecision, Plan]:
    """Return the first shape and precision whose plan fits into a limit; the last ones tried if none does."""
    names = list(SHAPES)[list(SHAPES).index(shape_name) :]
    for name in names:
        for precision in _QUANTISED:
            plan = plan_work(SHAPES[name], precision, work, text_tokens, int(cap * GIB))
            if plan.fits:
                return name, precision, plan
    return name, precision, plan


def _plan_facts(plan: Plan) -> dict[str, Any]:
    return {
        "precision": plan.precision,
        "rows": plan.batch,
        "pictures": plan.chunk_length,
        "chunks": plan.chunk_count,
        "fits": plan.fits,
        "advice": plan.advice,
        "predicted_gib": plan.memory.allocated_bytes / GIB,
        "predicted_with_context_gib": plan.memory.peak_bytes / GIB,
    }


def _run_capped(loaded: Loaded, work: Work, plan: Plan, cap: float, machine: Machine) -> dict[str, Any]:
    requests = loaded.requests.make(work.part(plan.chunk_count, pictures=plan.chunk_length))
    with _capped(cap * GIB - plan.memory.context_bytes, machine):
        opened = OpenedEngine(loaded, machine, planned_limits(plan))
        with machine.measure() as span:
            done, trouble = _count_read(opened, requests, plan.batch)
        opened.forget()
    return {
        "failed_chunks": len(requests) - done,
        "seconds": span.seconds,
        "peak_gib": span.allocated_bytes / GIB,
        "reserved_gib": span.reserved_bytes / GIB,
        "trouble": trouble,
    }


def _count_read(opened: OpenedEngine, requests: Sequence[Request], rows: int) -> tuple[int, str]:
    """Return how many requests were answered, and what ended it if not all were."""
    done = 0
    try:
        for _ in opened.engine.write(requests, rows):
            done += 1
    except RuntimeError as error:  # torch's for memory, or a library's own that found none
        return done, f"{str(error).splitlines()[0]} ({_in_pieces()})"
    return done, ""


def _in_pieces() -> str:
    """Tell how much memory is held and not used, which is what a plan cannot see."""
    if not torch.cuda.is_available():
        return ""
    held, used = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()
    return f"{(held - used) / GIB:.2f} GiB held and not in use"


@contextmanager
def _capped(limit_bytes: float, machine: Machine) -> Iterator[None]:
    """Let torch have no more than some bytes; what else a limit holds is the process's own."""
    machine.release()
    if machine.cuda:
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / machine.memory_bytes))
    try:
        yield
    finally:
        if machine.cuda:
            torch.cuda.set_per_process_memory_fraction(1.0)


@dataclass(slots=True)
class _Built:
    """The last model that was asked for."""

    machine: Machine
    name: str = ""
    loaded: Loaded | None = None

    def get(self, name: str, precision: LoadedPrecision) -> Loaded:
        """Return a model of this shape and precision."""
        loaded, self.loaded = self.loaded, None
        if loaded is None or (self.name, loaded.precision) != (name, precision):
            loaded = None  # its memory is needed
            self.machine.release()
            loaded = Workshop(SHAPES[name], self.machine).build(precision)
        self.name, self.loaded = name, loaded
        return loaded
