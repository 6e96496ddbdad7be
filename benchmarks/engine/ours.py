"""Measures medvl's engine: the whole work from grey pictures to the last token, replies held to their schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.engine.machine import Machine, Span
from benchmarks.engine.models import Loaded
from benchmarks.engine.planned import count_text, plan_work, planned_limits
from benchmarks.engine.table import Row
from benchmarks.engine.work import Work
from medvl.reader.decoding import Limits
from medvl.reader.engine.loop import Engine
from medvl.reader.engine.pictures import PictureCache
from medvl.reader.engine.prompts import PromptWriter
from medvl.reader.engine.text import TextModel
from medvl.reader.engine.vision import VisionEncoder
from medvl.reader.identity import Sampling
from medvl.reader.prompting import pictures_of
from medvl.records import Request

_SETTLED = 2  # steps until the host no longer waits for prefill


@dataclass(frozen=True, slots=True)
class Written:
    """What answering some requests took."""

    span: Span
    first_s: float  # from the start until every request has its first token
    step_s: float  # of a step once they come evenly; 0 where there were too few


class OpenedEngine:
    """An engine over a loaded model, with its clock."""

    def __init__(self, loaded: Loaded, machine: Machine, limits: Limits) -> None:
        self._machine, self._stamps = machine, loaded.grammars.stamps
        self.cache = PictureCache(device_bytes=limits.kept_on_device_bytes, host_bytes=limits.kept_on_host_bytes)
        visual = loaded.model.model.visual
        self.encoder = VisionEncoder(visual, loaded.shape, cache=self.cache, pixels_at_once=limits.pixels_at_once)
        prompts = PromptWriter(loaded.chat, loaded.shape, self.encoder, loaded.model.device)
        self.engine = Engine(TextModel(loaded.model), self.encoder, prompts, loaded.grammars, Sampling())

    def write(self, requests: Sequence[Request], rows: int) -> Written:
        """Answer requests, all together.

        Raises ValueError if a reply has not its full length, because then less was done than the table would say.
        """
        self._stamps.clear()
        with self._machine.measure() as span:
            readings = dict(self.engine.write(requests, rows))
        for number, request in enumerate(requests):
            if (length := len(readings[number].tokens)) != request.max_new_tokens:
                raise ValueError(f"a reply of {length} tokens instead of {request.max_new_tokens}")
        even = self._stamps[_SETTLED:]
        step_s = (even[-1] - even[0]) / (len(even) - 1) if len(even) > 1 else 0.0
        return Written(span, self._stamps[1] - span.start, step_s)

    def encode(self, requests: Sequence[Request]) -> float:
        """Encode the pictures of requests, chunk by chunk; return the seconds."""
        with self._machine.measure() as span:
            for request in requests:
                self.encoder.encode(pictures_of(request))
        return span.seconds

    def forget(self) -> None:
        """Give back slots, graphs and encoded pictures."""
        self.engine.forget()
        self.cache.clear()
        self._machine.release()


def measure_ours(loaded: Loaded, work: Work, machine: Machine) -> Row:
    """The whole work with as many slots as chunks; making slots and graph is part of the total."""
    make, text_tokens = loaded.requests.make, count_text(loaded.shape, work, loaded.requests)
    plan = plan_work(loaded.shape, loaded.precision, work, text_tokens, machine.memory_bytes)
    opened = OpenedEngine(loaded, machine, planned_limits(plan))
    warming = opened.write(make(work.part(1)), work.chunks)  # kernels compile for these very slots
    opened.forget()
    whole = opened.write(make(work), work.chunks)
    again = opened.write(make(work.part(work.chunks, new_tokens=2)), work.chunks)  # in the slots that are there
    vision_s = opened.encode(make(work))
    opened.forget()
    lone = opened.write(make(work.part(1)), 1)
    opened.forget()
    return Row(
        vision_s=vision_s,
        prefill_s=again.first_s - vision_s,
        step_s=whole.step_s,
        lone_step_s=lone.step_s,
        total_s=whole.span.seconds,
        peak_bytes=whole.span.allocated_bytes,
        reserved_bytes=whole.span.reserved_bytes,
        predicted_bytes=plan.memory.allocated_bytes,
        capture_s=max(0.0, whole.first_s - again.first_s),
        start_s=warming.span.seconds,
        note="measured from end to end",
    )
