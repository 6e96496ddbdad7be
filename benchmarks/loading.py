"""Time how long an 8B checkpoint takes from its files to a model on the GPU: stock transformers and medvl.

    python -m benchmarks.loading [--model Qwen/Qwen3-VL-8B-Instruct] [--folder DIR] [--cold] [--output FILE]

Writes a checkpoint with random weights of the published shape (16.3 GiB for the 8B), which leaves its files in the page
cache, loads it in one process, and prints one JSON document. Every path has loaded a tiny checkpoint before, so imports
and the start of CUDA are not counted; the tokenizer is small. With --cold every load is repeated with the files dropped
from the page cache, where the system lets go of them; a host's or a disk's own cache may still hold them.
Needs an NVIDIA GPU and bitsandbytes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import mmap
import os
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText

from medvl.planning.shape import PUBLISHED_SHAPES, ModelShape
from medvl.reader.checkpoint import list_shards, list_tensors
from medvl.reader.loading import load_model, load_stock
from medvl.reader.precision import LoadedPrecision, check_precision
from medvl.reader.quiet import quiet_libraries
from medvl.reader.tensors import read_pieces
from medvl.reader.tiny import TINY_SHAPE, make_config, train_tokenizer
from medvl.settings import DEFAULT_MODEL

CUDA = torch.device("cuda")
SHARD_BYTES = 5 * 10**9  # as on the hub
COMPARED = "model.language_model.layers.1.mlp.down_proj.weight"


def write_checkpoint(folder: Path, shape: ModelShape) -> None:
    folder.mkdir()
    tokenizer = train_tokenizer(["slice 1: a nodule"], 300)
    tokenizer.save_pretrained(folder)
    config = make_config(shape, tokenizer)
    config.save_pretrained(folder)
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    empty = {name: each for name, each in model.state_dict().items() if name not in model.all_tied_weights_keys}
    weight_map: dict[str, str] = {}
    for number, names in enumerate(split_names(empty)):
        file = f"model-{number:05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        weights = {name: torch.empty(empty[name].shape, dtype=torch.bfloat16, device=CUDA) for name in names}
        for weight in weights.values():
            weight.normal_(std=0.02)
        save_file(weights, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def split_names(tensors: dict[str, torch.Tensor]) -> Iterator[list[str]]:
    names: list[str] = []
    held = 0
    for name, tensor in tensors.items():
        if held + tensor.nbytes > SHARD_BYTES:
            yield names
            names, held = [], 0
        names.append(name)
        held += tensor.nbytes
    yield names


def read_all(folder: Path, device: torch.device) -> None:
    for shard in list_shards(folder):
        for _ in read_pieces(list_tensors(shard), device):
            pass


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    gib = {
        "held_gib": torch.cuda.memory_allocated() - before,
        "peak_gib": torch.cuda.max_memory_allocated() - before,
        "peak_reserved_gib": torch.cuda.max_memory_reserved(),
    }
    return result, {"seconds": round(seconds, 2), **{name: round(bytes_ / 2**30, 2) for name, bytes_ in gib.items()}}


def load_every_way(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    weights: dict[str, torch.Tensor] = {}
    for name, work in ways(folder):
        with quiet_libraries():
            model, found[name] = timed(work)
        check_precision(model, "int8" if "int8" in name else "bf16")
        weights[name] = model.get_parameter(COMPARED).data.clone()
        del model  # else the next load would start beside it
    differing = weights["stock int8"] != weights["medvl int8"]
    found["same bits"] = {
        "bf16 as stock": torch.equal(weights["medvl bf16"], weights["stock bf16"]),
        "share of int8 steps other than stock's on this GPU": differing.float().mean().item(),
    }
    return found


def ways(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    precisions: tuple[LoadedPrecision, ...] = ("bf16", "int8")
    for precision in precisions:
        yield f"stock {precision}", partial(load_stock, folder, precision, CUDA)
        yield f"medvl {precision}", partial(load_ours, folder, precision)


def load_ours(folder: Path, precision: LoadedPrecision) -> Any:
    return load_model(folder, precision, CUDA)[0]


def load_cold(folder: Path) -> dict[str, Any] | str:
    found: dict[str, Any] = {}
    for name, work in ways(folder):
        if not drop_from_cache(folder):
            return "not measured: the system did not let go of the files"
        with quiet_libraries():
            found[name] = timed(work)[1]["seconds"]
    return found


def drop_from_cache(folder: Path) -> bool:
    """Ask the system to forget the weight files, and tell whether it has."""
    for shard in list_shards(folder):
        with shard.open("rb+") as file:
            os.fsync(file.fileno())  # what is not yet on disk stays
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return sum(cached_pages(shard) for shard in list_shards(folder)) == 0


def cached_pages(path: Path) -> int:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        there = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(first), ctypes.c_size_t(len(mapped)), there)
        del first  # else the file could not be unmapped
    if failed:
        raise OSError(ctypes.get_errno(), f"mincore does not tell which pages of {path.name} are cached")
    return sum(page & 1 for page in there)


def describe(folder: Path) -> dict[str, Any]:
    size = sum(shard.stat().st_size for shard in list_shards(folder))
    return {
        "card": torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in ("torch", "transformers", "bitsandbytes", "safetensors")},
        "date": date.today().isoformat(),
        "checkpoint_gib": round(size / 2**30, 2),
        "files": "in the page cache, just written, unless said to be cold",
        "tokenizer": "300 tokens; the published one takes longer",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PUBLISHED_SHAPES, default=DEFAULT_MODEL)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written; a temporary folder unless given")
    parser.add_argument("--cold", action="store_true", help="also load with the files dropped from the page cache")
    parser.add_argument("--output", type=Path, help="write the JSON here as well")
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.folder) as base:
        tiny, folder = Path(base) / "tiny", Path(base) / "checkpoint"
        write_checkpoint(tiny, TINY_SHAPE)
        load_every_way(tiny)
        written = timed(lambda: write_checkpoint(folder, PUBLISHED_SHAPES[arguments.model]))[1]["seconds"]
        found = describe(folder) | {"writing the checkpoint": written}
        found["reading alone, to the host"] = timed(lambda: read_all(folder, torch.device("cpu")))[1]["seconds"]
        found["reading alone, to the GPU"] = timed(lambda: read_all(folder, CUDA))[1]["seconds"]
        found |= load_every_way(folder)
        if arguments.cold:
            found["cold, seconds"] = load_cold(folder)
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
