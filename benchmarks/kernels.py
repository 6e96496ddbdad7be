"""Time the engine's kernels on the shapes of the 8B against the bytes they must read, and a whole decode step.

    python -m benchmarks.kernels [--out FOLDER] [--only step]

Needs a GPU and nothing else: weights are random. Every figure is of a replayed CUDA graph over as many copies of the
weights as the cache cannot hold; a copy within the card's memory, both ways counted, is the measure of 100 %.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import triton
from torch import Tensor

from medvl.reader.engine import kernels, ops, products
from medvl.reader.engine.matrix import Matrix
from medvl.reader.engine.products import Tiles

LAYERS, HIDDEN, MLP, HEADS, KV, DIM, VOCAB = 36, 4096, 12288, 32, 8, 128, 151936
LENGTH, PLACES = 2800, 3072
CACHE_BYTES = 200 << 20  # more than any card's second-level cache
REPLAYS = 7

Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """One product of a layer; n is the width of its result."""

    name: str
    n: int
    k: int
    kind: str = "int8"
    gated: bool = False
    whole: bool = True


SHAPES = (
    Shape("qkv", (HEADS + 2 * KV) * DIM, HIDDEN),
    Shape("o", HIDDEN, HEADS * DIM, whole=False),
    Shape("gate_up", MLP, HIDDEN, gated=True),
    Shape("down", HIDDEN, MLP, whole=False),
    Shape("lm_head", VOCAB, HIDDEN, kind="dense"),
)


def time_graph(launch: Callable[[], Any], repeats: int) -> float:
    """Return microseconds of one of `repeats` like things that `launch` does."""
    beside = torch.cuda.Stream()
    with torch.cuda.stream(beside):
        launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    graph.replay()
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return 1000 * median(times) / repeats


def copy_bandwidth() -> float:
    """Return bytes per microsecond that a large copy reads and writes."""
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / time_graph(lambda: target.copy_(source), 1)


def random_matrix(n: int, k: int, kind: str) -> Matrix:
    if kind == "dense":
        return Matrix("dense", torch.randn(n, k, device="cuda", dtype=torch.bfloat16) / k**0.5, None, (n, k))
    values = torch.randint(-127, 128, (n, k), dtype=torch.int8, device="cuda")
    return Matrix("int8", values, torch.full((n,), 1 / (73 * k**0.5), device="cuda"), (n, k))


def rows_of(shape: Shape) -> int:
    return shape.n * (2 if shape.gated else 1)


def candidates(shape: Shape, rows: int, *, wide: bool) -> Iterator[Tiles]:
    """Yield ways to cut up a product: the chosen one alone, or a wide choice."""
    item = 2 if shape.kind == "dense" else 1
    yield products.choose_tiles(rows, shape.n, shape.k, item, gated=shape.gated, whole=shape.whole)
    if not wide:
        return
    if rows == 1:
        for columns, depth in product((4, 8, 16), (4096, 2048, 1024, 512)):
            warps = depth * item // 512
            if 1 <= warps <= 8 and not (shape.gated and columns == 16):
                yield Tiles(columns, depth, 1, warps, 1)
        return
    parts = (1,) if shape.whole else (1, 2, 4, 8)
    cuts = [
        (16, 256, 1, 4), (32, 128, 1, 5), (32, 256, 2, 4), (32, 512, 2, 3), (32, 128, 2, 6), (64, 128, 2, 4),
        (64, 128, 2, 6), (64, 256, 2, 3), (32, 256, 4, 4), (64, 128, 4, 4), (64, 128, 4, 6), (64, 256, 4, 4),
        (128, 128, 4, 4), (128, 128, 8, 5), (128, 64, 4, 6),
    ]  # fmt: skip
    for (columns, depth, warps, stages), number in product(cuts, parts):
        if not (shape.gated and columns == 128):
            yield Tiles(columns, depth // item, number, warps, stages)


def bench_product(shape: Shape, rows: int, *, wide: bool, bandwidth: float) -> Iterator[Row]:
    weights = [random_matrix(rows_of(shape), shape.k, shape.kind)]
    copies = max(4, CACHE_BYTES // weights[0].values.nbytes)
    weights += [random_matrix(rows_of(shape), shape.k, shape.kind) for _ in range(copies - 1)]
    x = torch.randn(rows, shape.k, device="cuda", dtype=torch.bfloat16)
    limit = weights[0].values.nbytes / bandwidth
    ways = list(dict.fromkeys(candidates(shape, rows, wide=wide)))

    def launch(tiles: Tiles, matrices: list[Matrix]) -> None:
        dtype = torch.bfloat16 if shape.whole else torch.float32
        out = torch.empty(tiles.parts, rows, shape.n, device="cuda", dtype=dtype)
        for matrix in matrices:
            products.multiply(x, matrix.values, matrix.scales, out, tiles, gated=shape.gated)

    precompile([partial(launch, tiles, weights[:1]) for tiles in ways])
    for tiles in ways:
        row: Row = {"what": shape.name, "rows": rows, "tiles": tuple(tiles), "limit_us": limit}
        try:
            row["us"] = time_graph(partial(launch, tiles, weights), copies)
        except (triton.OutOfResources, RuntimeError) as error:
            yield row | {"us": float("inf"), "error": str(error)[:80]}
            continue
        yield row


def precompile(calls: list[Callable[[], None]]) -> None:
    """Compile in threads; what does not fit the card is found again, and reported, when it is timed."""

    def attempt(call: Callable[[], None]) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                call()
        except (triton.OutOfResources, triton.CompilationError, RuntimeError):
            pass

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(attempt, calls))
    torch.cuda.synchronize()


def bench_attention(slots: int, *, wide: bool, bandwidth: float) -> Iterator[Row]:
    layers = max(2, CACHE_BYTES // (slots * KV * PLACES * DIM * 4))
    keys, values = (torch.randn(layers, slots, KV, PLACES, DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    queries = torch.randn(slots, HEADS, DIM, device="cuda", dtype=torch.bfloat16)
    lengths = torch.full((slots,), LENGTH, device="cuda")
    out = torch.empty(slots, HEADS * DIM, device="cuda", dtype=torch.bfloat16)
    limit = slots * KV * LENGTH * DIM * 4 / bandwidth
    cuts = [kernels.choose_cut(slots, KV)]
    if wide:
        forms = [(64, 4, 3), (64, 4, 2), (32, 4, 4), (32, 2, 3), (64, 2, 2), (128, 4, 2), (128, 8, 2), (64, 8, 3)]
        cuts += [kernels.Cut(span, *form) for form, span in product(forms, (64, 128, 256, 512, 1024))]

    def launch(cut: kernels.Cut, count: int) -> None:
        for layer in range(count):
            kernels.decode_attention(queries, keys[layer], values[layer], lengths, out, cut)

    precompile([partial(launch, cut, 1) for cut in cuts])
    for cut in cuts:
        row: Row = {"what": "attention", "rows": slots, "tiles": tuple(cut), "limit_us": limit}
        try:
            yield row | {"us": time_graph(partial(launch, cut, layers), layers)}
        except (triton.OutOfResources, RuntimeError) as error:
            yield row | {"us": float("inf"), "error": str(error)[:80]}


class Step:
    """A decode step of the 8B with random weights, as the text model takes it."""

    def __init__(self, rows: int) -> None:
        """rows: slots, all filled to LENGTH."""
        self.layers = [
            {shape.name: random_matrix(rows_of(shape), shape.k, shape.kind) for shape in SHAPES[:-1]}
            for _ in range(LAYERS)
        ]
        self.head = random_matrix(VOCAB, HIDDEN, "dense")
        self.keys, self.values = (
            torch.randn(LAYERS, rows, KV, PLACES, DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2)
        )
        self.norm, self.head_norm = (torch.ones(n, device="cuda", dtype=torch.bfloat16) for n in (HIDDEN, DIM))
        self.x = torch.randn(rows, HIDDEN, device="cuda", dtype=torch.bfloat16)
        self.cosine, self.sine = torch.rand(2, rows, DIM, device="cuda").unbind()
        self.slot = torch.arange(rows, device="cuda")
        self.lengths = torch.full((rows,), LENGTH, device="cuda")
        self.place = self.lengths - 1

    @property
    def bytes(self) -> int:
        """What must be read."""
        weights = sum(matrix.values.nbytes for layer in self.layers for matrix in layer.values())
        return weights + self.head.values.nbytes + LAYERS * len(self.x) * KV * LENGTH * DIM * 4

    def take(self) -> Tensor:
        """Return logits (rows, vocabulary)."""
        x, epsilon = self.x, 1e-6
        normed = ops.rms_norm(x, self.norm, epsilon)
        for layer, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            qkv = layer["qkv"].multiply(normed)
            queries = ops.store_rotated(
                qkv,
                self.head_norm,
                self.head_norm,
                epsilon,
                self.cosine,
                self.sine,
                keys,
                values,
                self.slot,
                self.place,
            )
            seen = ops.decode_attention(queries, keys, values, self.lengths)
            normed, x = ops.multiply_add_rms_norm(layer["o"], seen, x, self.norm, epsilon)
            inner = ops.multiply_gated(layer["gate_up"], normed)
            normed, x = ops.multiply_add_rms_norm(layer["down"], inner, x, self.norm, epsilon)
        return self.head.multiply(normed, torch.float32)


def bench_step(rows: int, bandwidth: float) -> Row:
    step = Step(rows)
    us = time_graph(step.take, 1)
    return {"what": "step", "rows": rows, "tiles": (), "limit_us": step.bytes / bandwidth, "us": us}


def bench_small(rows: int) -> Iterator[Row]:
    """Time what lies between the products; a layer's worth of bytes is small, so launches are what counts."""
    x, residual = (torch.randn(rows, HIDDEN, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    qkv = torch.randn(rows, (HEADS + 2 * KV) * DIM, device="cuda", dtype=torch.bfloat16)
    weight, head = (torch.ones(n, device="cuda", dtype=torch.bfloat16) for n in (HIDDEN, DIM))
    keys, values = (torch.empty(rows, KV, PLACES, DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    (cosine, sine), slot = torch.rand(2, rows, DIM, device="cuda").unbind(), torch.arange(rows, device="cuda")
    logits = torch.randn(rows, VOCAB, device="cuda")
    mask = torch.full((rows, VOCAB // 32), -1, dtype=torch.int32, device="cuda")
    calls: dict[str, Callable[[], Any]] = {
        "add_rms_norm": lambda: ops.add_rms_norm(x, residual, weight, 1e-6),
        "store_rotated": lambda: ops.store_rotated(qkv, head, head, 1e-6, cosine, sine, keys, values, slot, slot),
        "choose": lambda: ops.choose(logits, mask),
    }
    for name, call in calls.items():
        us = time_graph(partial(repeat, call, 50), 50)
        yield {"what": name, "rows": rows, "tiles": (), "limit_us": 0.0, "us": us}


def repeat(call: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        call()


def show(row: Row) -> None:
    share = f"{100 * row['limit_us'] / row['us']:5.0f} %" if row["limit_us"] else "      –"
    print(f"{row['what']:14}{row['rows']:4}  {row['tiles']!s:24}{row['us']:10.2f} µs {share}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for kernels.json")
    parser.add_argument("--only", choices=["step", "chosen", "wide"], default="chosen", help="wide: a grid of tiles")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 30])
    arguments = parser.parse_args()
    torch.cuda.init()
    bandwidth, table = copy_bandwidth(), list[Row]()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {bandwidth / 1e6:.2f} TB/s")
    wide = arguments.only == "wide"
    for rows in arguments.rows:
        found = [[bench_step(rows, bandwidth)]]
        torch.cuda.empty_cache()
        if arguments.only != "step":
            found += [list(bench_product(shape, rows, wide=wide, bandwidth=bandwidth)) for shape in SHAPES]
            found += [
                list(bench_attention(rows, wide=wide, bandwidth=bandwidth)),
                *([row] for row in bench_small(rows)),
            ]
        for group in found:
            table += group
            for row in [group[0], *sorted(group[1:], key=lambda row: row["us"])[:6]]:
                show(row)
        torch.cuda.empty_cache()
        if arguments.out:
            (arguments.out / "kernels.json").write_text(json.dumps({"copy": bandwidth, "rows": table}, indent=1))


if __name__ == "__main__":
    main()
