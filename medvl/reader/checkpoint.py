"""What one checkpoint folder holds, read from its files alone: shape, preferences, fingerprint, damage.

Imports neither torch nor transformers. Knows nothing of where checkpoints come from.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from medvl.errors import ModelError
from medvl.planning.shape import ModelShape, shape_from_config

PREFERENCES_FILE = "medvl.json"
_INDEX_FILE = "model.safetensors.index.json"
# Whatever besides the weights decides a reply; the ones a checkpoint lacks are left out.
_DECIDING_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024
_HEADER_LIMIT_BYTES = 100_000_000  # the safetensors format's own limit
_DTYPE_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16}
_DTYPE_BITS |= {"U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8}


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a checkpoint would like, from its `medvl.json`. Unset values leave the choice to medvl."""

    size_px: int | None = None
    slab: str | None = None
    chunk: str | None = None
    prompt: str | None = None
    windows: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    second_look: str | None = None  # off or findings
    look_px: int | None = None  # side of the pictures of a second look
    looks_for: tuple[str, ...] = ()  # what it can be asked about in a second look; empty: anything
    warning: str = ""  # shown in red wherever its findings are
    evaluated: bool = False  # its accuracy was measured and published with it


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where one tensor lies: a run of bytes in a weight file, row after row."""

    name: str
    dtype: str  # as the safetensors format spells it
    shape: tuple[int, ...]
    path: Path
    offset: int  # of its first byte in the file
    size_bytes: int


_PREFERENCE_KINDS: dict[str, tuple[type, str]] = {
    "size_px": (int, "a whole number"),
    "slab": (str, "text"),
    "chunk": (str, "text"),
    "prompt": (str, "text"),
    "windows": (list, "a list of texts"),
    "max_new_tokens": (int, "a whole number"),
    "second_look": (str, "text"),
    "look_px": (int, "a whole number"),
    "looks_for": (list, "a list of texts"),
    "warning": (str, "text"),
    "evaluated": (bool, "true or false"),
}


def read_shape(folder: Path) -> ModelShape:
    """Read a checkpoint's dimensions.

    Raises ModelError if there is no readable config.json or it describes another architecture.
    """
    return shape_from_config(_read_json(folder / "config.json"))


def read_preferences(folder: Path) -> Preferences:
    """Read what a checkpoint prefers; all unset if it does not say.

    Raises ModelError that names the keys medvl does not know, or a value of the wrong kind.
    """
    path = folder / PREFERENCES_FILE
    if not path.exists():
        return Preferences()
    content = _read_json(path)
    known = [field.name for field in fields(Preferences)]
    if unknown := sorted(set(content) - set(known)):
        raise ModelError(
            f"{path} sets {', '.join(unknown)}", expected=f"medvl knows {', '.join(known)}", todo="Correct that file"
        )
    return Preferences(**{key: _preference(path, key, value) for key, value in content.items()})


def _preference(path: Path, key: str, value: Any) -> Any:
    kind, words = _PREFERENCE_KINDS[key]
    texts = all(isinstance(item, str) for item in value) if isinstance(value, list) else True
    if type(value) is not kind or not texts:
        raise ModelError(f"{path} sets {key} to {value!r}", expected=f"It takes {words}", todo="Correct that file")
    return tuple(value) if isinstance(value, list) else value


def read_end_ids(folder: Path) -> tuple[int, ...]:
    """Read which tokens end a reply: those of generation_config.json, else the configuration's.

    Raises ModelError if neither file names one.
    """
    for name in ("generation_config.json", "config.json"):
        content = _read_json(folder / name) if (folder / name).exists() else {}
        found = content.get("eos_token_id", content.get("text_config", {}).get("eos_token_id"))
        if found is not None:
            return tuple(found) if isinstance(found, list) else (int(found),)
    raise ModelError(f"No file in {folder} says which token ends a reply", expected="eos_token_id is needed")


def list_shards(folder: Path) -> tuple[Path, ...]:
    """Return the weight files a checkpoint should have, whether they are there or not."""
    index = folder / _INDEX_FILE
    if not index.exists():
        return (folder / "model.safetensors",)
    names = _read_json(index).get("weight_map", {}).values()
    return tuple(folder / name for name in sorted(set(names)))


def missing_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the files without which a checkpoint cannot be read."""
    tokenizer = () if (folder / "vocab.json").exists() else (folder / "tokenizer.json",)
    needed = (folder / "config.json", *tokenizer, *list_shards(folder))
    return tuple(path.name for path in needed if not path.exists())


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 that stands for a checkpoint: configuration, tokenizer and samples of every weight file.

    Each weight file counts with its name, size, header and 64 blocks of 64 KiB, evenly spaced (all of it when it is not
    larger than those): well under a second for 17 GB, and any two checkpoints trained apart differ.
    Raises ModelError if a file is missing or cannot be read.
    """
    check_complete(folder)
    digest = hashlib.sha256(b"medvl checkpoint 1\n")
    try:
        for name in _DECIDING_FILES:
            if (folder / name).exists():
                _add(digest.update, name, (folder / name).read_bytes())
        for shard in list_shards(folder):
            _add(digest.update, shard.name, str(shard.stat().st_size).encode())
            for block in _sample(shard):
                digest.update(block)
    except OSError as error:
        raise ModelError(f"The checkpoint in {folder} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _add(update: Callable[[bytes], None], name: str, content: bytes) -> None:
    update(f"{name} {len(content)}\n".encode())
    update(content)


def _sample(path: Path) -> Iterable[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            yield file.read()
            return
        header_bytes = min(int.from_bytes(file.read(8), "little"), _HEADER_LIMIT_BYTES)
        yield file.read(header_bytes)
        for number in range(_SAMPLES):
            file.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)


def check_complete(folder: Path) -> None:
    """Raise ModelError naming what is missing unless the folder holds all files of a checkpoint."""
    if missing := missing_files(folder):
        raise _incomplete(folder, missing)


def _incomplete(folder: Path, missing: Iterable[str]) -> ModelError:
    return ModelError(
        f"The checkpoint in {folder} lacks {', '.join(missing)}",
        expected="A checkpoint has config.json, a tokenizer and all its safetensors files",
        todo="Copy the rest, or `medvl models pull` it again",
    )


def find_damage(folder: Path) -> dict[str, str]:
    """Check that the weight files are whole and hold together, without reading the weights themselves.

    Returns file name → what is wrong with it: missing, cut short, offsets that overlap or leave holes, tensors that the
    index promises and the file lacks. Source: the safetensors format.
    """
    shards = list_shards(folder)
    damage: dict[str, str] = dict.fromkeys(missing_files(folder), "missing")
    promised = _promised_tensors(folder)
    for shard in shards:
        if shard.name in damage:
            continue
        if trouble := _shard_trouble(shard, promised.get(shard.name)):
            damage[shard.name] = trouble
    return damage


def _promised_tensors(folder: Path) -> dict[str, set[str]]:
    index = folder / _INDEX_FILE
    promised: dict[str, set[str]] = {}
    for tensor, shard in (_read_json(index).get("weight_map", {}) if index.exists() else {}).items():
        promised.setdefault(shard, set()).add(tensor)
    return promised


def _shard_trouble(path: Path, promised: set[str] | None) -> str:
    try:
        found = {tensor.name for tensor in list_tensors(path)}
    except ValueError as error:
        return str(error)
    return "" if promised is None or promised == found else f"{len(promised ^ found)} tensors differ from the index"


def list_tensors(path: Path) -> tuple[TensorPlace, ...]:
    """List the tensors of a weight file in the order of their bytes; its header must describe it to the last byte.

    Raises ValueError that says what is wrong with the file, OSError if it cannot be read. Source: the safetensors
    format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _HEADER_LIMIT_BYTES):
            raise ValueError(f"its header claims {length} bytes of {size}")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors, end = _place_tensors(path, 8 + length, header)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its header cannot be read: {error}") from error
    if end != size:
        raise ValueError(f"it has {size} bytes; its header asks for {end}")
    return tensors


def _place_tensors(path: Path, start: int, header: Mapping[str, Any]) -> tuple[tuple[TensorPlace, ...], int]:
    """Return the tensors and where the last one ends. Raises ValueError unless they follow each other without holes."""
    places, end = [], 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        if first != end or (last - first) * 8 != math.prod(entry["shape"]) * _DTYPE_BITS[entry["dtype"]]:
            raise ValueError(f"tensor {name} does not fit its place")
        places.append(TensorPlace(name, entry["dtype"], tuple(entry["shape"]), path, start + first, last - first))
        end = last
    return tuple(places), start + end


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _incomplete(path.parent, [path.name]) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", todo="Check it with `medvl models verify`") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object", todo="Check it with `medvl models verify`")
    return content
