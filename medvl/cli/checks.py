"""`medvl doctor`: one check per thing that can be missing, each with what to do about it."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medvl.dicom.shelves import HeaderCache
from medvl.errors import ModelError
from medvl.planning.device import Device, find_device
from medvl.reader.weights import locate_model

_PACKAGES = ("torch", "transformers", "bitsandbytes", "accelerate", "llguidance")
_DECODERS = {"gdcm": "python-gdcm", "openjpeg": "pylibjpeg-openjpeg", "jpeg_ls": "pyjpegls", "SimpleITK": "SimpleITK"}
_GIB = 2**30
_SMALLEST_BYTES = 4 * _GIB  # enough for the demo model


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    good: bool
    found: str
    todo: str = ""


def check_machine(model: str, store: Path, headers: Path) -> tuple[Check, ...]:
    """Look at everything medvl needs on this machine; imports neither torch nor the decoders."""
    device = find_device()
    machine = (_memory(device), _decoding(device))
    return (
        _python(),
        *map(_package, _PACKAGES),
        *map(_decoder, _DECODERS),
        *machine,
        _model(model, store),
        _headers(headers),
    )


def _python() -> Check:
    return Check("Python", sys.version_info >= (3, 11), sys.version.split()[0])


def _package(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, "not installed", f"pip install {name}")


def _decoder(module: str) -> Check:
    package = _DECODERS[module]
    if importlib.util.find_spec(module) is None:
        return Check(f"decoder {package}", False, "not installed", f"pip install {package}")
    return Check(f"decoder {package}", True, version(package))


def _memory(device: Device) -> Check:
    found = f"{device.name}, {device.free_bytes / _GIB:.1f} of {device.total_bytes / _GIB:.1f} GiB free"
    todo = ""
    if device.kind == "cpu":
        todo = "There is no GPU that torch can use: the demo model runs here, an 8B model would take hours a study"
    return Check("memory", device.free_bytes >= _SMALLEST_BYTES, found, todo)


def _decoding(device: Device) -> Check:
    if device.kind == "cpu":
        return Check("decoding loop", True, "stock transformers, as on every CPU")
    if device.runs_engine:
        return Check("decoding loop", True, "the engine")
    todo = "The engine needs Triton, which comes with PyTorch for CUDA on Linux, and a card of 2020 or later"
    return Check("decoding loop", False, "stock transformers, many times slower", todo)


def _headers(folder: Path) -> Check:
    kept = HeaderCache(folder).size_bytes()
    return Check("headers kept", True, f"{kept / 1e6:.1f} MB in {folder}, for its owner only; --no-cache keeps none")


def _model(name: str, store: Path) -> Check:
    try:
        location = locate_model(name, store)
    except ModelError as error:
        return Check("model", False, error.found, error.todo)
    return Check("model", True, f"{location.name} in {location.folder}")
