"""Chooses the numbers the weights are kept in, asks transformers for them, and checks what it got.

int8 and nf4 are bitsandbytes'. Only the Linear layers of the text model are quantised: the vision tower and the output
matrix are small beside them and suffer most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from medvl.errors import ModelError, PrecisionError
from medvl.settings import Precision

LoadedPrecision = Literal["int8", "nf4", "bf16", "fp32"]

# Compared with the start of full module names; given, they replace transformers' own list (lm_head alone).
_NEVER_QUANTISED = ["lm_head", "model.visual"]
_LAYER_CLASS = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """A decision and its reason."""

    precision: LoadedPrecision
    reason: str


def choose_precision(asked: Precision, device: torch.device) -> PrecisionChoice:
    """Settle on a precision this device can read with.

    Raises PrecisionError if int8 or nf4 was asked for and bitsandbytes does not work here; a plan can be made anew with
    the reason, its `found`.
    """
    if asked in ("bf16", "fp32"):
        return PrecisionChoice(asked, "as asked")
    trouble = bitsandbytes_trouble(device)
    if asked == "auto":
        return _automatic(trouble, device)
    if trouble:
        raise PrecisionError(
            f"bitsandbytes does not work on {device}: {trouble}",
            expected=f"{asked} weights need it",
            todo="Install bitsandbytes 0.50 or later, or choose --precision bf16",
        )
    return PrecisionChoice(asked, "as asked")


def _automatic(trouble: str, device: torch.device) -> PrecisionChoice:
    if trouble:
        return PrecisionChoice("bf16", f"bitsandbytes does not work on {device}: {trouble}")
    return PrecisionChoice("int8", f"bitsandbytes works on {device}; half the memory of bf16")


def bitsandbytes_trouble(device: torch.device) -> str:
    """Return why bitsandbytes cannot multiply int8 matrices on this device; empty if it can."""
    try:
        import bitsandbytes

        layer = bitsandbytes.nn.Linear8bitLt(32, 32, bias=False, has_fp16_weights=False).to(device)
        layer(torch.ones(1, 32, dtype=torch.float16, device=device))
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # no wheel, no library, no kernel
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return ""


def load_options(precision: LoadedPrecision, device: torch.device) -> dict[str, Any]:
    """Return what `from_pretrained` needs for this precision on this device."""
    # Around int8 and nf4 layers a CPU computes in float32: most emulate bfloat16, slowly.
    full = precision == "fp32" or (device.type == "cpu" and precision in _LAYER_CLASS)
    dtype = torch.float32 if full else torch.bfloat16
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}}
    if precision in _LAYER_CLASS:
        options["quantization_config"] = _quantisation(precision, dtype)
    return options


def _quantisation(precision: LoadedPrecision, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_NEVER_QUANTISED)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_NEVER_QUANTISED,
    )


def check_precision(model: nn.Module, precision: LoadedPrecision) -> None:
    """Make sure that exactly the text model's Linear layers are quantised, and none at bf16 or fp32.

    Raises ModelError that names the layers which are not as they should be.
    """
    wanted = _LAYER_CLASS.get(precision)
    wrong = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _quantised(module) != (wanted if may_quantise(name) else None)
    ]
    if wrong:
        shown = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        raise ModelError(
            f"{shown} did not load as {precision} asks",
            expected="The Linear layers of the text model are quantised, the vision tower and lm_head are not",
            todo="Choose --precision bf16, and report the versions that `medvl doctor` prints",
        )


def may_quantise(name: str) -> bool:
    """Tell from a layer's full name whether int8 and nf4 are for it."""
    return not name.startswith(tuple(_NEVER_QUANTISED))


def _quantised(layer: nn.Linear) -> str | None:
    kind = type(layer).__name__
    return kind if kind in _LAYER_CLASS.values() else None
