"""The flags that several commands share, and their translation into settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from medvl.errors import SettingsError
from medvl.settings import DEFAULT_MODEL, Decode, Language, Precision, Settings

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

Paths = Annotated[list[Path], typer.Argument(help="Folders (any depth), files, DICOMDIRs or zips.", show_default=False)]
# Flags that several commands have: annotation and default. `build_settings` turns them into settings.
_SHARED: dict[str, tuple[Any, Any]] = {
    "output": (Annotated[Path, typer.Option("--output", "-o", help="Where reports are written.")], Path("reports")),
    "model": (Annotated[str, typer.Option(help="Model id, checkpoint folder, or demo.")], DEFAULT_MODEL),
    "precision": (Annotated[str, typer.Option(help="auto, int8, nf4, bf16 or fp32.")], "auto"),
    "decode": (Annotated[str, typer.Option(help="Loop that writes the replies: auto, engine or stock.")], "auto"),
    "series": (
        Annotated[list[str], typer.Option(help="auto, all, or Series Instance UIDs (repeat the flag).")],
        ["auto"],
    ),
    "window": (
        Annotated[
            list[str], typer.Option(help="auto, a preset (lung, brain …), WL/WW, or rgb; repeat for several passes.")
        ],
        ["auto"],
    ),
    "size": (
        Annotated[int | None, typer.Option(help="Side of a picture in pixels, a multiple of 32. [default: 512]")],
        None,
    ),
    "slab": (
        Annotated[str | None, typer.Option(help="Average thin slices: auto (about 3 mm), off, or mm. [default: auto]")],
        None,
    ),
    "chunk": (
        Annotated[str | None, typer.Option(help="Pictures per model call: auto or a number. [default: auto]")],
        None,
    ),
    "batch": (
        Annotated[int | None, typer.Option(help="Chunks read together. [default: as many as fit]", min=1)],
        None,
    ),
    "memory": (
        Annotated[str | None, typer.Option(help="Plan for this much memory, e.g. 12GiB. [default: what is free]")],
        None,
    ),
    "prompt": (
        Annotated[str | None, typer.Option(help="Prompt id or file. [default: chosen per series]")],
        None,
    ),
    "language": (Annotated[str, typer.Option(help="Language of prompts and report: en or zh.")], "en"),
    "temperature": (Annotated[float, typer.Option(help="0 is greedy, the same reply every time.", min=0, max=2)], 0.0),
    "max_new_tokens": (
        Annotated[int | None, typer.Option(help="Longest reply per chunk, in tokens.", min=16, max=8192)],
        None,
    ),
    "cache": (Annotated[bool, typer.Option(help="Keep headers, so that the next scan is quicker.")], True),
    "strict": (Annotated[bool, typer.Option(help="Read no stack that the gate has a note about.")], False),
    "deidentify": (Annotated[bool, typer.Option(help="Leave name, ID and exact dates out of the report.")], False),
    "force": (Annotated[bool, typer.Option(help="Forget finished chunks and start over.")], False),
}
# What decides how pictures are made and read, for any command that reads.
READING = ("model", "precision", "decode", "window", "size", "slab", "chunk", "batch", "memory", "prompt")

_FIELDS = {"window": "windows", "size": "size_px", "memory": "memory_bytes"}  # where flag and setting differ


def shared_flags(names: Sequence[str]) -> list[Parameter]:
    """Return the parameters of some shared flags, for a command's signature."""
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name in names
        for annotation, default in [_SHARED[name]]
    ]


def build_settings(given: Mapping[str, Any]) -> Settings:
    """Turn the values of shared flags into settings. Raises SettingsError for a value that is not allowed."""
    one_of("precision", given.get("precision", "auto"), get_args(Precision))
    one_of("decode", given.get("decode", "auto"), get_args(Decode))
    one_of("language", given.get("language", "en"), get_args(Language))
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if values.get("memory") is not None:
        values["memory"] = parse_bytes(values["memory"])
    return Settings(**{_FIELDS.get(name, name): value for name, value in values.items()})


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


def model_store() -> Path:
    """Return where medvl keeps its own copies of models."""
    return _home() / "models"


def header_store() -> Path:
    """Return where medvl keeps what it has read of headers."""
    return _home() / "headers"


def _home() -> Path:
    """Return medvl's own folder: $MEDVL_HOME, else in the user's cache folder."""
    home = os.environ.get("MEDVL_HOME")
    if home:
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medvl"
