"""What this machine can offer a model: a GPU's or the host's memory. Asks the driver directly; imports no torch."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil


@dataclass(frozen=True, slots=True)
class Device:
    """The memory a model would run in."""

    kind: Literal["cuda", "cpu"]
    name: str
    free_bytes: int
    total_bytes: int
    runs_engine: bool = True  # a GPU with bf16, and Triton is installed; taken for granted of a GPU elsewhere


def find_device(environment: Mapping[str, str] = os.environ) -> Device:
    """Return the GPU that torch would take first, or the host if it would take none.

    environment: CUDA_VISIBLE_DEVICES is looked up in it, as CUDA itself does. Indexes count as `nvidia-smi` does: on
    a machine with cards of several kinds CUDA agrees if CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    gpu, host = _first_gpu(environment.get("CUDA_VISIBLE_DEVICES")), _host()
    if gpu is not None and not _torch_has_cuda(_torch_folder()):
        return replace(host, name=f"{host.name} (this torch is built without CUDA and cannot use the {gpu.name})")
    return gpu or host


def another_card(memory_bytes: int) -> Device:
    """Return a GPU that is not here, for plans: all of its memory is free."""
    return Device("cuda", f"a card with {memory_bytes / 2**30:g} GiB", memory_bytes, memory_bytes)


def _first_gpu(visible: str | None) -> Device | None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver: a laptop
        return None
    try:
        handle = _find_card(visible)
        return None if handle is None else _describe(_first_part(handle))
    except pynvml.NVMLError:  # a driver without a usable card, or a name it does not know
        return None
    finally:
        pynvml.nvmlShutdown()


def _find_card(visible: str | None) -> Any:
    """Return the driver's handle of the first visible card, or None.

    Source: CUDA C++ programming guide, CUDA_VISIBLE_DEVICES: indexes or UUIDs, which may be cut short while they are
    unique; nothing after an invalid one is visible.
    """
    import pynvml

    names = ["0"] if visible is None else [name.strip() for name in visible.split(",")]
    first = names[0]
    if len(set(names)) < len(names):  # CUDA shows no card at all
        return None
    if first.startswith("MIG-"):
        return pynvml.nvmlDeviceGetHandleByUUID(first)
    cards = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    if first.startswith("GPU-"):
        meant = [card for card in cards if str(pynvml.nvmlDeviceGetUUID(card)).startswith(first)]
        return meant[0] if len(meant) == 1 else None
    return cards[int(first)] if first.isdecimal() and int(first) < len(cards) else None


def _first_part(card: Any) -> Any:
    """Return a card, or its first instance if it is partitioned: CUDA uses one instance and never the whole card."""
    import pynvml

    try:
        mode, _ = pynvml.nvmlDeviceGetMigMode(card)
        if mode != pynvml.NVML_DEVICE_MIG_ENABLE:
            return card
        places = range(pynvml.nvmlDeviceGetMaxMigDeviceCount(card))
    except pynvml.NVMLError:  # it cannot be partitioned, or is an instance already
        return card
    for place in places:
        try:
            return pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place)
        except pynvml.NVMLError_NotFound:
            continue
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)  # partitioned, but into nothing yet


def _describe(card: Any) -> Device:
    import pynvml

    memory, name = pynvml.nvmlDeviceGetMemoryInfo(card), str(pynvml.nvmlDeviceGetName(card))
    has_triton = importlib.util.find_spec("triton") is not None
    return Device("cuda", name, int(memory.free), int(memory.total), has_triton and _has_bf16(card))


def _has_bf16(card: Any) -> bool:
    import pynvml

    try:
        major, _ = pynvml.nvmlDeviceGetCudaComputeCapability(card)
    except pynvml.NVMLError:  # not told of an instance; only cards that have it can be partitioned
        return True
    return int(major) >= 8


def _torch_folder() -> Path | None:
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent if spec and spec.origin else None


def _torch_has_cuda(folder: Path | None) -> bool:
    """Read the CUDA version a torch was built for, without importing it: that takes seconds."""
    try:
        text = (folder / "version.py").read_text() if folder else ""
    except OSError:
        return True  # another layout: the driver's word counts
    return re.search(r"^cuda\b[^=\n]*=\s*None\b", text, re.MULTILINE) is None


def _host() -> Device:
    memory = psutil.virtual_memory()
    return Device("cpu", "host memory", int(memory.available), int(memory.total), runs_engine=False)
