"""Measures the peaks that the planner's constants are held against, in the form of results/memory.json.

Each precision in a process of its own, and each load after libraries have given back what earlier ones made them take,
so that a peak is what that load alone would have come to.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

import torch

from benchmarks.engine.machine import Machine, Span
from benchmarks.engine.models import MODEL_NAMES, SHAPES, Loaded, Workshop
from benchmarks.engine.ours import OpenedEngine
from benchmarks.engine.work import Work
from medvl.planning.memory import GIB, DecodePath, Load, encoded_bytes, predict_memory
from medvl.reader.decoding import Limits
from medvl.reader.identity import Sampling
from medvl.reader.precision import LoadedPrecision
from medvl.reader.quiet import quiet_libraries
from medvl.reader.stock import StockWriter

_Peak = tuple[DecodePath, Load, Span]

_PRECISIONS: tuple[LoadedPrecision, ...] = ("int8", "bf16", "nf4")
_NEW_TOKENS = 64
_FEW_REQUESTS = 3  # all slots are there from the start, so a few requests reach the peak


def _load(rows: int, pictures: int, size_px: int, at_once: int = 1, kept: int = 0) -> Load:
    """A load whose prompt has not been counted yet."""
    return Load(rows, pictures, 0, _NEW_TOKENS, size_px, at_once, kept)


# The smallest comes first, for a quick run takes it alone.
_ENGINE_LOADS = (
    _load(1, 1, 448),
    _load(1, 10, 512, at_once=5),
    _load(8, 10, 512, at_once=5, kept=20),
    _load(8, 16, 448, at_once=16),
    _load(16, 10, 448),
    _load(16, 16, 512, at_once=8),
    _load(30, 1, 512),
    _load(30, 10, 512, at_once=3),
)
_STOCK_LOADS = (_load(1, 1, 512), _load(1, 10, 512), _load(8, 10, 448), _load(30, 10, 512))


def measure_peaks(
    shape_name: str, work: Work, machine: Machine, say: Callable[[str], None], *, quick: bool = False
) -> Iterator[dict[str, Any]]:
    """Measure peaks by precision, rows, chunk length and picture size, on both paths.

    quick: the smallest load alone.
    """
    spawned = multiprocessing.get_context("spawn")  # a fork could not use the GPU
    with ProcessPoolExecutor(1, spawned, max_tasks_per_child=1) as processes:
        for precision in _PRECISIONS:
            for path, load, span in processes.submit(_measure, shape_name, precision, work, quick).result():
                peak = _describe(shape_name, path, precision, load, span, machine)
                say(", ".join(f"{key} {value}" for key, value in peak.items()))
                yield peak


def _measure(shape_name: str, precision: LoadedPrecision, work: Work, quick: bool) -> list[_Peak]:
    machine, count = Machine(), 1 if quick else None
    loaded = Workshop(SHAPES[shape_name], machine).build(precision)
    ours = _engine_peaks(loaded, work, machine, _ENGINE_LOADS[:count])
    return list(chain(ours, _stock_peaks(loaded, work, machine, _STOCK_LOADS[:count])))


def _engine_peaks(loaded: Loaded, work: Work, machine: Machine, loads: Sequence[Load]) -> Iterator[_Peak]:
    for load in loads:
        part = _part(work, load, min(load.rows, _FEW_REQUESTS))
        _start_clean(machine)
        opened = OpenedEngine(loaded, machine, _limits(loaded, load))
        span = opened.write(loaded.requests.make(part), load.rows).span
        opened.forget()
        del opened
        yield "engine", replace(load, prompt_tokens=loaded.requests.prompt_tokens(part)), span


def _stock_peaks(loaded: Loaded, work: Work, machine: Machine, loads: Sequence[Load]) -> Iterator[_Peak]:
    writer = StockWriter(loaded.model, loaded.chat, loaded.shape, loaded.grammars, Sampling())
    for load in loads:
        load = replace(load, new_tokens=2)  # its cache grows with what was written
        part = _part(work, load, load.rows)
        _start_clean(machine)
        with quiet_libraries(), machine.measure() as span:
            list(writer.write(loaded.requests.make(part), load.rows))
        yield "stock", replace(load, prompt_tokens=loaded.requests.prompt_tokens(part)), span


def _start_clean(machine: Machine) -> None:
    """Give back what nothing uses, cuBLAS's workspaces too: it keeps one for every stream that ever called it."""
    machine.finish()
    if machine.cuda:
        torch._C._cuda_clearCublasWorkspaces()  # private, but how torch's CUDA notes say it is done
    machine.release()


def _part(work: Work, load: Load, chunks: int) -> Work:
    return replace(work, chunks=chunks, pictures=load.pictures, size_px=load.size_px, new_tokens=load.new_tokens)


def _limits(loaded: Loaded, load: Load) -> Limits:
    kept = load.kept_pictures * encoded_bytes(loaded.shape, load.size_px)
    return Limits(load.pictures_at_once * load.size_px**2, kept, 0)


def _describe(
    shape_name: str, path: DecodePath, precision: LoadedPrecision, load: Load, span: Span, machine: Machine
) -> dict[str, Any]:
    facts = machine.describe()
    return {
        "measured": ", ".join([facts["card"], *(f"{name} {facts[name]}" for name in ("torch", "transformers"))]),
        "path": path,
        "model": MODEL_NAMES.get(shape_name, shape_name),
        "precision": precision,
        "load": asdict(load),
        "peak_gib": span.allocated_bytes / GIB,
        "carried_mib": 0,
        "reserved_gib": span.reserved_bytes / GIB,
        "predicted_gib": predict_memory(SHAPES[shape_name], precision, load, path).allocated_bytes / GIB,
    }
