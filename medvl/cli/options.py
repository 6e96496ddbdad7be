"""The flags that several commands share, and their translation into settings."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from medvl.errors import SettingsError
from medvl.settings import DEFAULT_MODEL, Language, Precision, Settings

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

Paths = Annotated[list[Path], typer.Argument(help="Folders (any depth), files, DICOMDIRs or zips.", show_default=False)]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="Where reports are written.")]
Model = Annotated[str, typer.Option(help="Model id, checkpoint folder, or demo.")]
PrecisionFlag = Annotated[str, typer.Option(help="auto, int8, nf4, bf16 or fp32.")]
SeriesFlag = Annotated[list[str], typer.Option(help="auto, all, or Series Instance UIDs (repeat the flag).")]
WindowFlag = Annotated[
    list[str], typer.Option(help="auto, a preset (lung, brain …), WL/WW, or rgb; repeat for several passes.")
]
SizeFlag = Annotated[
    int | None, typer.Option(help="Side of a picture in pixels, a multiple of 32. [default: 512]", show_default=False)
]
SlabFlag = Annotated[
    str | None,
    typer.Option(help="Average thin slices: auto (about 3 mm), off, or mm. [default: auto]", show_default=False),
]
ChunkFlag = Annotated[
    str | None, typer.Option(help="Pictures per model call: auto or a number. [default: auto]", show_default=False)
]
BatchFlag = Annotated[
    int | None, typer.Option(help="Chunks read together. [default: as many as fit]", min=1, show_default=False)
]
MemoryFlag = Annotated[
    str | None, typer.Option(help="Plan for this much memory, e.g. 12GiB. [default: what is free]", show_default=False)
]
PromptFlag = Annotated[
    str | None, typer.Option(help="Prompt id or file. [default: chosen per series]", show_default=False)
]
LanguageFlag = Annotated[str, typer.Option(help="Language of prompts and report: en or zh.")]
TemperatureFlag = Annotated[float, typer.Option(help="0 is greedy, the same reply every time.", min=0, max=2)]
NewTokensFlag = Annotated[
    int | None, typer.Option(help="Longest reply per chunk, in tokens.", min=16, max=8192, show_default=False)
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
VerboseFlag = Annotated[bool, typer.Option("--verbose", "-v", help="Print more detail.")]

MODEL = DEFAULT_MODEL


def parse_bytes(text: str) -> int:
    """Read a size such as "12GiB" or "500MB". Raises SettingsError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", text, re.IGNORECASE)
    unit = match[2].upper() if match else "?"
    unit = unit if not unit or unit.endswith("B") else f"{unit}B"
    if not match or unit not in _UNITS or float(match[1]) <= 0:
        raise SettingsError(
            f'"{text}" is not an amount of memory', expected="A number and a unit", todo="Write for instance 12GiB"
        )
    return int(float(match[1]) * _UNITS[unit])


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return the value if it is allowed. Raises SettingsError that lists what is."""
    if value not in allowed:
        raise SettingsError(
            f'--{name} "{value}" is unknown', expected=f"One of {', '.join(allowed)}", todo=f"Choose one for --{name}"
        )
    return value


def build_settings(*, memory: str | None = None, **asked: Any) -> Settings:
    """Check the flags that have a fixed set of values and build the settings. Raises SettingsError."""
    one_of("precision", asked.get("precision", "auto"), get_args(Precision))
    one_of("language", asked.get("language", "en"), get_args(Language))
    return Settings(memory_bytes=parse_bytes(memory) if memory else None, **asked)


def language_of(text: str) -> Language:
    """Return the language named by --language. Raises SettingsError."""
    return cast(Language, one_of("language", text, get_args(Language)))


def model_store() -> Path:
    """Return where medvl keeps its own copies of models: $MEDVL_HOME, else the user's cache folder."""
    home = os.environ.get("MEDVL_HOME")
    if home:
        return Path(home) / "models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medvl" / "models"
