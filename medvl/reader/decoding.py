"""Decides how replies are written: by the engine, or by stock transformers. Imports no torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from medvl.errors import ModelError
from medvl.settings import Decode


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine may take besides weights, slots and one prompt."""

    pixels_at_once: int = 3 * 512 * 512  # through the vision tower
    kept_on_device_bytes: int = 1 << 30  # of encoded pictures
    kept_on_host_bytes: int = 0


def wants_engine(asked: Decode, *, cuda: bool) -> bool:
    """Tell whether the engine writes the replies: by default wherever there is a GPU and Triton.

    Asked for by name it runs on a CPU as well, in plain torch: slower than stock, but the same arithmetic to try.
    Raises ModelError if it is asked for on a GPU without Triton.
    """
    has_triton = importlib.util.find_spec("triton") is not None
    if asked == "engine" and cuda and not has_triton:
        raise ModelError(
            "The engine was asked for, and Triton is not installed",
            expected="Triton comes with PyTorch's CUDA wheels on Linux",
            todo="Install it, or choose --decode stock",
        )
    return asked == "engine" or (asked == "auto" and cuda and has_triton)
