"""Where checkpoints lie and how they get there: a folder of the user's, the hub's cache, or medvl's own store.

Imports neither torch nor transformers, so that a plan needs none of them. `store` is always the folder of medvl's own
copies; the hub's cache is where HF_HOME says, as for every other tool.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medvl.bundled import bundled_path
from medvl.errors import ModelError, OutputError, SettingsError
from medvl.planning.shape import PUBLISHED_SHAPES, ModelShape
from medvl.reader.checkpoint import check_complete, find_damage, missing_files, read_shape

DEMO = "demo"
_MANIFEST = "medvl-manifest.json"
# What a checkpoint needs; hub repositories may hold other forms of the same weights beside it.
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_BLOCK_BYTES = 4 * 1024 * 1024

Origin = Literal["folder", "demo", "copy", "hub"]
CopyProgress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """A complete checkpoint on disk."""

    name: str  # as shown: the hub's id, "demo", or a folder's name
    folder: Path
    origin: Origin


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A checkpoint medvl can manage, whole or not."""

    location: ModelLocation
    size_bytes: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What is known of one file after checking it."""

    name: str
    size_bytes: int
    against: Literal["sha256", "git", "nothing"]  # "nothing": no digest of it is known here, only its form was checked
    problem: str = ""


def locate_model(name: str, store: Path) -> ModelLocation:
    """Find a checkpoint on this machine without asking the hub: a folder, "demo", a copy in store, or the hub's cache.

    Raises ModelError naming the ways to get it, or what is missing from it.
    """
    found = find_model(name, store)
    if found is None:
        raise _not_here(name)
    check_complete(found.folder)
    return found


def find_model(name: str, store: Path) -> ModelLocation | None:
    """Find a checkpoint on this machine, complete or not; None if there is none. See `locate_model`."""
    if name == DEMO:
        return ModelLocation(DEMO, bundled_path("demo_model"), "demo")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelLocation(folder.resolve().name, folder, "folder")
    if (copy := store / _folder_name(name)).is_dir():
        return ModelLocation(name, copy, "copy")
    cached = _hub_snapshot(name)
    return None if cached is None else ModelLocation(name, cached, "hub")


def find_shape(name: str, store: Path) -> ModelShape:
    """Return a model's dimensions: from its checkpoint when it is here, else as published, so that a plan can be made.

    Raises ModelError if neither is known.
    """
    found = find_model(name, store)
    if found is not None:
        return read_shape(found.folder)
    if name in PUBLISHED_SHAPES:
        return PUBLISHED_SHAPES[name]
    raise _not_here(name)


def _hub_snapshot(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # not an id: a mistyped path, say
        return None
    return Path(config).parent if isinstance(config, str) else None


def _not_here(name: str) -> ModelError:
    return ModelError(
        f"The model {name} is not on this machine",
        expected="--model takes a checkpoint folder, the id of a downloaded model, or demo",
        todo=f"With a network: `medvl models pull {name}`. Without: copy the checkpoint folder here and run "
        f"`medvl models pull {name} --from FOLDER`, or set HF_HOME to a cache filled on another machine. "
        "To try medvl without weights: --model demo",
    )


def list_models(store: Path) -> tuple[StoredModel, ...]:
    """List the Qwen3-VL checkpoints in store and in the hub's cache, by name."""
    copies = [
        ModelLocation(_shown_name(folder), folder, "copy")
        for folder in (store.iterdir() if store.is_dir() else ())
        if folder.is_dir() and not folder.name.startswith(".")
    ]
    cached = (ModelLocation(name, folder, "hub") for name in _cached_ids() if (folder := _hub_snapshot(name)))
    return tuple(_stored(place) for place in sorted([*copies, *cached], key=lambda p: p.name) if _is_ours(place.folder))


def _stored(location: ModelLocation) -> StoredModel:
    return StoredModel(location, sum(size for _, size in _files(location.folder)), missing_files(location.folder))


def _is_ours(folder: Path) -> bool:
    try:
        read_shape(folder)
    except ModelError:
        return False
    return True


def _cached_ids() -> list[str]:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        return [repo.repo_id for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos if repo.repo_type == "model"]
    except CacheNotFound:
        return []


def pull_model(
    name: str, store: Path, source: Path | None = None, progress: CopyProgress | None = None
) -> ModelLocation:
    """Bring a checkpoint onto this machine: from the hub into its cache, or from a folder into store.

    Raises ModelError if the hub cannot be reached or the folder is no complete Qwen3-VL, OutputError if it cannot be
    written, SettingsError if the name cannot be one. A copy appears complete, with a manifest of its digests, or not at
    all.
    """
    if not _NAME.fullmatch(name) or name == DEMO:
        raise SettingsError(f"{name!r} is no name for a model", expected="A hub id, such as Qwen/Qwen3-VL-8B-Instruct")
    if source is not None:
        return _pull_folder(name, store, source, progress)
    _download(name)
    return locate_model(name, store)


def _download(name: str) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot_download(name, allow_patterns=list(_PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"The hub did not give {name}: {str(error).splitlines()[0]}",
            expected="An id such as Qwen/Qwen3-VL-8B-Instruct, and a network that reaches the hub",
            todo=f"Try again; what was downloaded is kept. Or copy the folder here from another machine and run "
            f"`medvl models pull {name} --from FOLDER`",
        ) from error


def _pull_folder(name: str, store: Path, source: Path, progress: CopyProgress | None) -> ModelLocation:
    check_complete(source)
    read_shape(source)
    target = store / _folder_name(name)
    try:
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store, prefix=".pull-") as beside:
            draft = Path(beside) / target.name
            _copy_with_manifest(name, source, draft, progress)
            if target.exists():
                shutil.rmtree(target)
            draft.rename(target)
    except OSError as error:
        raise OutputError(
            f"The copy of {name} cannot be written to {store}: {error.strerror}", todo="Free some space there"
        ) from error
    return ModelLocation(name, target, "copy")


def _copy_with_manifest(name: str, source: Path, draft: Path, progress: CopyProgress | None) -> None:
    draft.mkdir()
    files = [(path, size) for path, size in _files(source) if any(path.match(pattern) for pattern in _PATTERNS)]
    total, done, digests = sum(size for _, size in files), 0, {}
    for path, _ in files:
        digest = hashlib.sha256()
        with (draft / path.name).open("wb") as copy:
            for block in _blocks(path):
                copy.write(block)
                digest.update(block)
                done += len(block)
                if progress:
                    progress(done, total)
        digests[path.name] = digest.hexdigest()
    (draft / _MANIFEST).write_text(json.dumps({"name": name, "sha256": digests}, indent=2) + "\n", encoding="utf-8")


def verify_model(name: str, store: Path, progress: CopyProgress | None = None) -> tuple[FileCheck, ...]:
    """Check every file of a checkpoint: form of the weight files, and full digests wherever they are known.

    Digests come from the manifest of a copy, or from the hub's cache, which names files by theirs.
    Raises ModelError if the model is not here at all.
    """
    found = find_model(name, store)
    if found is None:
        raise _not_here(name)
    damage = find_damage(found.folder)
    manifest = _manifest(found.folder)
    files = [(path, size) for path, size in _files(found.folder) if path.name != _MANIFEST]
    total, done, checks = sum(size for _, size in files), 0, []
    for path, size in files:
        checks.append(_check(path, size, manifest.get(path.name, ""), damage.pop(path.name, "")))
        done += size
        if progress:
            progress(done, total)
    gone = {**damage, **dict.fromkeys(set(manifest) - {path.name for path, _ in files}, "missing")}
    return (*checks, *(FileCheck(lost, 0, "nothing", problem) for lost, problem in sorted(gone.items())))


def _check(path: Path, size: int, digest: str, problem: str) -> FileCheck:
    against, expected, make = _expectation(path, size, digest)
    if not problem and make is not None and make(path) != expected:
        problem = f"its content is not what its {against} digest says"
    return FileCheck(path.name, size, against, problem)


def _expectation(
    path: Path, size: int, digest: str
) -> tuple[Literal["sha256", "git", "nothing"], str, Callable[[Path], str] | None]:
    """Return which digest of a file is known, and how to make it.

    The hub's cache links each file to a blob named by its ETag: SHA-256 for large files, git's SHA-1 for small ones.
    """
    known = digest or (path.resolve().name if path.is_symlink() else "")
    if len(known) == 64:
        return "sha256", known, lambda file: _digest(file, hashlib.sha256())
    if len(known) == 40:
        return "git", known, lambda file: _digest(file, hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False))
    return "nothing", "", None


def _digest(path: Path, digest: Any) -> str:
    for block in _blocks(path):
        digest.update(block)
    return str(digest.hexdigest())


def _manifest(folder: Path) -> dict[str, str]:
    try:
        content = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / _MANIFEST} cannot be read: {error}", todo="Pull the model again") from error
    return dict(content)


def remove_model(name: str, store: Path) -> int:
    """Delete a checkpoint from store or from the hub's cache, and return the bytes freed.

    Raises ModelError if it is not here, or is a folder that medvl did not make.
    """
    found = find_model(name, store)
    if found is None:
        raise _not_here(name)
    if found.origin == "demo":
        raise ModelError("The demo model is a part of medvl", todo="It goes when medvl is uninstalled")
    if found.origin == "folder":
        raise ModelError(f"{found.folder} is a folder of yours", todo="Delete it yourself if you no longer need it")
    if found.origin == "hub":
        return _remove_cached(name)
    freed = sum(size for _, size in _files(found.folder))
    shutil.rmtree(found.folder)
    return freed


def _remove_cached(name: str) -> int:
    from huggingface_hub import constants, scan_cache_dir

    cache = scan_cache_dir(constants.HF_HUB_CACHE)
    commits = [revision.commit_hash for repo in cache.repos if repo.repo_id == name for revision in repo.revisions]
    removal = cache.delete_revisions(*commits)
    removal.execute()
    return int(removal.expected_freed_size)


def _files(folder: Path) -> list[tuple[Path, int]]:
    return [(path, path.stat().st_size) for path in sorted(folder.iterdir()) if path.is_file()]


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _folder_name(name: str) -> str:
    return name.replace("/", "--")


def _shown_name(folder: Path) -> str:
    return folder.name.replace("--", "/")
