"""Asks medvl's planner about the work, and hands what it says to the engine."""

from __future__ import annotations

from benchmarks.engine.work import Requests, Work
from medvl.planning.device import another_card
from medvl.planning.plan import Plan, Wishes, Workload, plan_reading
from medvl.planning.shape import ModelShape
from medvl.reader.decoding import Limits
from medvl.reader.precision import LoadedPrecision


def plan_work(shape: ModelShape, precision: LoadedPrecision, work: Work, text_tokens: int, memory_bytes: int) -> Plan:
    """Plan the work for a GPU with so much free memory.

    text_tokens: of a prompt, see `count_text`.
    """
    task = Workload((work.slices,), work.size_px, text_tokens, 0, work.new_tokens)
    wishes = Wishes(precision, work.pictures, work.chunks, decode="engine")
    return plan_reading(shape, another_card(memory_bytes), task, wishes, None)


def count_text(shape: ModelShape, work: Work, requests: Requests) -> int:
    """Count what of a prompt is not a picture's."""
    return requests.prompt_tokens(work) - work.pictures * shape.picture_tokens(work.size_px)


def planned_limits(plan: Plan) -> Limits:
    """Return what the engine may keep by plan; nothing on the host, so that all that is kept is in the plan."""
    return Limits(plan.pixels_at_once, plan.picture_cache_bytes, 0)
