"""The flags that several commands share, and their translation into settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from medvl.address import ServerAddress
from medvl.errors import SettingsError
from medvl.settings import DEFAULT_MODEL, Decode, GuidelinesWish, Language, Looks, Precision, Settings
from medvl.stated import Risk, Stated, parse_facts, parse_lesions

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

Paths = Annotated[list[Path], typer.Argument(help="Folders (any depth), files, DICOMDIRs or zips.", show_default=False)]
# Flags that several commands have: annotation and default. `build_settings` turns them into settings.
_SHARED: dict[str, tuple[Any, Any]] = {
    "output": (Annotated[Path, typer.Option("--output", "-o", help="Where reports are written.")], Path("reports")),
    "model": (
        Annotated[
            str | None,
            typer.Option(
                help=f"Model id, checkpoint folder, or demo; a --server's own name for one. [default: {DEFAULT_MODEL}]"
            ),
        ],
        None,
    ),
    "server": (
        Annotated[
            str | None,
            typer.Option(help="Let an OpenAI-compatible server read, e.g. http://localhost:8000/v1 (docs/server.md)."),
        ],
        None,
    ),
    "allow_remote": (
        Annotated[bool, typer.Option("--allow-remote", help="Send pictures and prompts to a --server elsewhere.")],
        False,
    ),
    "api_key_file": (
        Annotated[
            Path | None,
            typer.Option(help="File with the server's key. [default: the environment's MEDVL_API_KEY]"),
        ],
        None,
    ),
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
    "second_look": (
        Annotated[str | None, typer.Option(help="Ask about each finding again, at full resolution: off or findings.")],
        None,
    ),
    "temperature": (Annotated[float, typer.Option(help="0 is greedy, the same reply every time.", min=0, max=2)], 0.0),
    "max_new_tokens": (
        Annotated[int | None, typer.Option(help="Longest reply per chunk, in tokens.", min=16, max=8192)],
        None,
    ),
    "cache": (Annotated[bool, typer.Option(help="Keep headers, so that the next scan is quicker.")], True),
    "strict": (Annotated[bool, typer.Option(help="Read no stack that the gate has a caution about.")], False),
    "age": (
        Annotated[int | None, typer.Option(help="For guidelines: the patient's age in years.", min=0, max=130)],
        None,
    ),
    "screening": (
        Annotated[bool | None, typer.Option(help="For guidelines: whether this is a lung cancer screening.")],
        None,
    ),
    "risk": (Annotated[str | None, typer.Option(help="For guidelines: risk of lung cancer, low or high.")], None),
    "immunosuppressed": (
        Annotated[bool | None, typer.Option(help="For guidelines: whether the patient is.")],
        None,
    ),
    "known_cancer": (
        Annotated[bool | None, typer.Option(help="For guidelines: whether the patient has or had one.")],
        None,
    ),
    "lesion": (
        Annotated[
            list[str] | None,
            typer.Option(help="For guidelines: what a finding is, such as 2:part-solid,solid-part=4,new; repeat."),
        ],
        None,
    ),
    "stated": (
        Annotated[list[str] | None, typer.Option(help="For guidelines: other facts, such as multiphase; repeat.")],
        None,
    ),
    "guidelines": (
        Annotated[str, typer.Option(help="auto (for models marked as evaluated), off, or on.")],
        "auto",
    ),
    "deidentify": (Annotated[bool, typer.Option(help="Leave name, ID and exact dates out of the report.")], False),
    "force": (Annotated[bool, typer.Option(help="Forget finished chunks and start over.")], False),
}
# What decides how pictures are made and read, for any command that reads.
READING = (
    *("model", "precision", "decode", "window", "size", "slab", "chunk", "batch", "memory", "prompt"),
    "second_look",
)

# A server that reads in the model's place.
SERVER = ("server", "allow_remote", "api_key_file")

# What the user states about the patient and about findings, for guidelines.
STATED = ("age", "screening", "risk", "immunosuppressed", "known_cancer", "lesion", "stated")

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
    if given.get("second_look") is not None:
        one_of("second-look", given["second_look"], get_args(Looks))
    one_of("guidelines", given.get("guidelines", "auto"), get_args(GuidelinesWish))
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if values.get("memory") is not None:
        values["memory"] = parse_bytes(values["memory"])
    values |= {"stated": _stated({name: values.pop(name, None) for name in STATED})}
    values |= {"server": _server(**{name: values.pop(name, None) for name in SERVER})}
    if values.get("model") is None:
        values |= {"model": "" if values["server"] else DEFAULT_MODEL}
    return Settings(**{_FIELDS.get(name, name): value for name, value in values.items()})


def _server(server: str | None, allow_remote: bool | None, api_key_file: Path | None) -> ServerAddress | None:
    """Return where the server is, None where none is to read. Raises SettingsError."""
    if server is None:
        if allow_remote or api_key_file:
            raise SettingsError("--allow-remote and --api-key-file speak of a server", expected="--server beside them")
        return None
    try:
        key = api_key_file.read_text(encoding="utf-8").strip() if api_key_file else os.environ.get("MEDVL_API_KEY", "")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The key in {api_key_file} cannot be read: {error}") from error
    return ServerAddress(server, bool(allow_remote), key)


def _stated(said: dict[str, Any]) -> Stated | None:
    """Return what is stated, None where nothing is. Raises SettingsError for words that medvl does not know."""
    if said["risk"] is not None:
        one_of("risk", said["risk"], get_args(Risk))
    lesions, facts = parse_lesions(said.pop("lesion") or ()), parse_facts(said.pop("stated") or ())
    stated = Stated(**said, lesions=lesions, facts=facts)
    return None if stated == Stated() else stated


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
