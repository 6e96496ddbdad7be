"""The machine a benchmark runs on: its clock, its memory, its name and versions."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version

import psutil
import torch

from medvl.reader.memory import prepare_allocator

_PACKAGES = ("torch", "triton", "transformers", "bitsandbytes", "llguidance")


@dataclass(slots=True)
class Span:
    """What a piece of work took. Bytes are torch's own count; 0 where there is no GPU."""

    start: float = 0.0  # on the clock of `time.perf_counter`
    seconds: float = 0.0
    allocated_bytes: int = 0  # the most at one moment
    reserved_bytes: int = 0  # the same, with what torch holds ready


class Machine:
    """The GPU if there is one, else the host."""

    def __init__(self) -> None:
        prepare_allocator()
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.name = torch.cuda.get_device_name() if self.cuda else platform.processor() or "CPU"
        # Most CPUs emulate bf16, slowly.
        self.dtype = torch.bfloat16 if self.cuda else torch.float32

    @property
    def memory_bytes(self) -> int:
        """All of the device's memory."""
        if self.cuda:
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return psutil.virtual_memory().total

    def finish(self) -> float:
        """Wait for the device; return the time."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def measure(self) -> Iterator[Span]:
        """Measure what happens inside, until the device has finished it."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        span = Span(self.finish())
        yield span
        span.seconds = self.finish() - span.start
        if self.cuda:
            span.allocated_bytes = torch.cuda.max_memory_allocated()
            span.reserved_bytes = torch.cuda.max_memory_reserved()

    def seconds(self, work: Callable[[], object], rounds: int) -> float:
        """Return the mean time of some work, done a few times before."""
        for _ in range(3):
            work()
        with self.measure() as span:
            for _ in range(rounds):
                work()
        return span.seconds / rounds

    def release(self) -> None:
        """Give memory that nothing refers to back to the device."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def describe(self) -> dict[str, str]:
        """Return card, driver, versions and date."""
        driver = {"driver": _driver()} if self.cuda else {}
        packages = {name: found for name in _PACKAGES if (found := _installed(name))}
        return {"card": self.name, **driver, "python": platform.python_version(), **packages, "date": str(date.today())}


def _driver() -> str:
    import pynvml

    pynvml.nvmlInit()
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
