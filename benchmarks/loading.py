"""Time how long an 8B checkpoint takes from warm files to a model on the GPU: stock transformers and medvl.

    python -m benchmarks.loading [--model Qwen/Qwen3-VL-8B-Instruct] [--folder DIR] [--output FILE]

Writes a checkpoint with random weights of the published shape (16.3 GiB for the 8B, and 10.1 GiB of kept int8 weights
beside it), which leaves its files in the page cache, loads it in one process, and prints one JSON document. Every path
has loaded a tiny checkpoint before, so imports and the start of CUDA are not counted; the tokenizer is small.
Needs an NVIDIA GPU and bitsandbytes.
"""

from __future__ import annotations

import argparse
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForImageTextToText

from medvl.planning.shape import PUBLISHED_SHAPES, ModelShape
from medvl.reader.checkpoint import list_shards, read_weight_file
from medvl.reader.kept import THREAD, Keeping
from medvl.reader.loading import load_model, load_stock
from medvl.reader.precision import check_precision
from medvl.reader.quiet import quiet_libraries
from medvl.reader.tensors import read_pieces, write_tensors
from medvl.reader.tiny import TINY_SHAPE, make_config, train_tokenizer
from medvl.reader.weights import ModelLocation
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
        write_tensors(folder / file, weights, {"format": "pt"}, lambda _count: None)
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
        for _ in read_pieces(read_weight_file(shard).tensors, device):
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


def settle() -> float:
    start = time.perf_counter()
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join()
    return round(time.perf_counter() - start, 2)


def load_every_way(folder: Path, store: Path) -> dict[str, Any]:
    location = ModelLocation("random", folder, "folder")
    told: list[str] = []
    keeping = Keeping(store, told.append)
    found: dict[str, Any] = {}
    weights: dict[str, torch.Tensor] = {}

    def measure(name: str, work: Callable[[], Any]) -> None:
        with quiet_libraries():
            model, found[name] = timed(work)
        check_precision(model, "int8" if "int8" in name else "bf16")
        weights[name] = model.get_parameter(COMPARED).data.clone()

    measure("stock bf16", lambda: load_stock(folder, "bf16", CUDA))
    measure("medvl bf16", lambda: load_model(location, "bf16", CUDA)[0])
    measure("stock int8", lambda: load_stock(folder, "int8", CUDA))
    measure("medvl int8, nothing kept", lambda: load_model(location, "int8", CUDA)[0])
    measure("medvl int8, first time, kept", lambda: load_model(location, "int8", CUDA, keeping=keeping)[0])
    found["kept"] = {"told": told[0], "seconds until on disk, in the background": settle()}
    measure("medvl int8, second time", lambda: load_model(location, "int8", CUDA, keeping=keeping)[0])
    ours = weights["medvl int8, first time, kept"]
    found["same bits"] = {
        "bf16 as stock": torch.equal(weights["medvl bf16"], weights["stock bf16"]),
        "second time as first": torch.equal(weights["medvl int8, second time"], ours),
        "share of int8 steps other than stock's on this GPU": (weights["stock int8"] != ours).float().mean().item(),
    }
    return found


def describe(folder: Path) -> dict[str, Any]:
    size = sum(shard.stat().st_size for shard in list_shards(folder))
    return {
        "card": torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in ("torch", "transformers", "bitsandbytes", "safetensors")},
        "date": date.today().isoformat(),
        "checkpoint_gib": round(size / 2**30, 2),
        "files": "in the page cache, just written",
        "tokenizer": "300 tokens; the published one takes longer",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PUBLISHED_SHAPES, default=DEFAULT_MODEL)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written; a temporary folder unless given")
    parser.add_argument("--output", type=Path, help="write the JSON here as well")
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.folder) as base:
        tiny, folder = Path(base) / "tiny", Path(base) / "checkpoint"
        write_checkpoint(tiny, TINY_SHAPE)
        load_every_way(tiny, Path(base) / "tiny store")
        written = timed(lambda: write_checkpoint(folder, PUBLISHED_SHAPES[arguments.model]))[1]["seconds"]
        found = describe(folder) | {"writing the checkpoint": written}
        found["reading alone, to the host"] = timed(lambda: read_all(folder, torch.device("cpu")))[1]["seconds"]
        found["reading alone, to the GPU"] = timed(lambda: read_all(folder, CUDA))[1]["seconds"]
        found |= load_every_way(folder, Path(base) / "store")
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
