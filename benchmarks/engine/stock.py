"""Measures stock transformers: `generate` over one left-padded batch, and the loop most people write.

Its inputs are cut on the device by medvl, its replies are free, so nothing but transformers and bitsandbytes is in its
times. Steps are timed for a few tokens; the rest is extrapolated, which favours stock: its cache still grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks.engine.machine import Machine
from benchmarks.engine.models import Loaded
from benchmarks.engine.table import Row
from benchmarks.engine.work import Work
from medvl.reader.identity import Sampling
from medvl.reader.prompting import prompt_ids
from medvl.reader.quiet import quiet_libraries
from medvl.reader.stock import StockWriter
from medvl.records import Request

_NAIVE_SLICES = 2  # timed; the others take as long


def measure_batched(loaded: Loaded, work: Work, machine: Machine) -> Row:
    """All chunks in one call."""
    _generate(loaded, loaded.requests.make(work.part(1)), machine, 2)  # libraries load, workspaces are taken
    inputs = _inputs(loaded, loaded.requests.make(work))
    vision_s = _vision_seconds(loaded, inputs, machine)
    machine.release()
    with machine.measure() as span:
        stamps = _run(loaded, inputs, machine, work.timed_tokens)
    del inputs
    step_s = _step_seconds(stamps)
    lone = _generate(loaded, loaded.requests.make(work.part(1)), machine, work.timed_tokens)
    return Row(
        vision_s=vision_s,
        prefill_s=stamps[1] - stamps[0] - vision_s,
        step_s=step_s,
        lone_step_s=_step_seconds(lone),
        total_s=stamps[1] - stamps[0] + (work.new_tokens - 1) * step_s,
        peak_bytes=span.allocated_bytes,
        reserved_bytes=span.reserved_bytes,
        note=f"total extrapolated from {work.timed_tokens} tokens",
    )


def measure_naive(loaded: Loaded, work: Work, machine: Machine) -> Row:
    """One slice, one question, one reply, and the next."""
    one = work.part(1, pictures=1)
    _generate(loaded, loaded.requests.make(one), machine, 2)
    with machine.measure() as span:
        runs = [_generate(loaded, loaded.requests.make(one), machine, work.timed_tokens) for _ in range(_NAIVE_SLICES)]
    first_s = median(stamps[1] - stamps[0] for stamps in runs)
    step_s = median(_step_seconds(stamps) for stamps in runs)
    return Row(
        lone_step_s=step_s,
        total_s=work.slices * (first_s + (work.new_tokens - 1) * step_s),
        peak_bytes=span.allocated_bytes,
        reserved_bytes=span.reserved_bytes,
        note=f"extrapolated from {_NAIVE_SLICES} slices and {work.timed_tokens} tokens each",
    )


def measure_compiled(loaded: Loaded, work: Work, machine: Machine) -> Row:
    """All chunks in one call with transformers' static cache, for which `generate` compiles the decode step."""
    static = {"cache_implementation": "static"}
    start = machine.finish()
    inputs = _inputs(loaded, loaded.requests.make(work))
    _run(loaded, inputs, machine, work.timed_tokens, **static)  # another length would compile anew
    compile_s = machine.finish() - start
    with machine.measure() as span:
        stamps = _run(loaded, inputs, machine, work.timed_tokens, **static)
    torch.compiler.reset()
    step_s = _step_seconds(stamps)
    return Row(
        step_s=step_s,
        total_s=stamps[1] - stamps[0] + (work.new_tokens - 1) * step_s,
        peak_bytes=span.allocated_bytes,
        reserved_bytes=span.reserved_bytes,
        start_s=compile_s,
        note=f"total extrapolated from {work.timed_tokens} tokens; compiling not counted",
    )


class _Stamps(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped
    """Never stops; notes when each token was there."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.seconds = [machine.finish()]

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self.seconds.append(self._machine.finish())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _generate(loaded: Loaded, requests: Sequence[Request], machine: Machine, tokens: int) -> list[float]:
    return _run(loaded, _inputs(loaded, requests), machine, tokens)


@torch.inference_mode()
def _run(loaded: Loaded, inputs: dict[str, Tensor], machine: Machine, tokens: int, **options: Any) -> list[float]:
    """Return when the run began and when each of its tokens was there."""
    stamps = _Stamps(machine)
    with quiet_libraries():
        loaded.model.generate(
            **inputs,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            eos_token_id=loaded.grammars.end_ids[0],
            pad_token_id=loaded.grammars.end_ids[0],
            stopping_criteria=StoppingCriteriaList([stamps]),
            **options,
        )
    return stamps.seconds


def _step_seconds(stamps: Sequence[float]) -> float:
    return median(after - before for before, after in pairwise(stamps[2:]))


def _inputs(loaded: Loaded, requests: Sequence[Request]) -> dict[str, Tensor]:
    writer = StockWriter(loaded.model, loaded.chat, loaded.shape, loaded.grammars, Sampling())
    return writer.inputs([prompt_ids(loaded.chat, request, loaded.shape) for request in requests], requests)


@torch.inference_mode()
def _vision_seconds(loaded: Loaded, inputs: dict[str, Tensor], machine: Machine) -> float:
    with machine.measure() as span:
        loaded.model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    return span.seconds
