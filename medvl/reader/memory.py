"""Turns a device or host that runs out of memory into OutOfMemoryError, with the memory given back."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

from medvl.errors import OutOfMemoryError

Result = TypeVar("Result")

_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")  # the older name first: every torch we run on knows it


def prepare_allocator() -> None:
    """Let torch take GPU memory in segments that grow, so that what stacked weights leave behind is used again.

    To be called before anything is on the GPU. What the user has set in the environment stays.
    """
    if not any(name in os.environ for name in _ALLOCATOR):
        os.environ[_ALLOCATOR[0]] = "expandable_segments:True"


def within_memory(
    work: Callable[[], Result], what: str, device: torch.device, forget: Callable[[], None] | None = None
) -> Result:
    """Do some work.

    what: the sentence that says what did not fit. forget: lets go of what the work may have left behind.
    Raises OutOfMemoryError instead of torch's and Python's own errors.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
    # Only here, outside the handler, is the traceback gone that kept the work's tensors alive.
    if forget is not None:
        forget()
    release()
    raise OutOfMemoryError(
        what,
        expected=f"Free on {device} without them: {_free_bytes(device) / 2**30:.1f} GiB",
        todo="Choose a smaller --chunk, --batch, --size or --precision, or a smaller model",
    )


def release() -> None:
    """Give memory that nothing refers to back to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in ("out of memory", "can't allocate memory", "alloc_failed"))


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
