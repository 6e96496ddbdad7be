"""What this machine can offer a model: a GPU's or the host's memory. Asks the driver directly; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import psutil


@dataclass(frozen=True, slots=True)
class Device:
    """The memory a model would run in."""

    kind: Literal["cuda", "cpu"]
    name: str
    free_bytes: int
    total_bytes: int


def find_device() -> Device:
    """Return the first GPU, which is the one the local reader uses, or the host if there is none."""
    return next(iter(_gpus()), _host())


def another_card(memory_bytes: int) -> Device:
    """Return a GPU that is not here, for plans: all of its memory is free."""
    return Device("cuda", f"a card with {memory_bytes / 2**30:g} GiB", memory_bytes, memory_bytes)


def _gpus() -> list[Device]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver: a laptop
        return []
    try:
        return [_gpu(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # a driver without a usable card
        return []
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: object) -> Device:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return Device("cuda", str(name), int(memory.free), int(memory.total))


def _host() -> Device:
    memory = psutil.virtual_memory()
    return Device("cpu", "host memory", int(memory.available), int(memory.total))
