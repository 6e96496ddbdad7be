"""Time the vision tower on the card: the stock forward chunk by chunk, and ours at several batch sizes.

    python -m benchmarks.vision [--json FILE] [--model NAME] [--pictures 300] [--size 512] [--rounds 3] [--profile]

Random weights of the model's shape, nothing is downloaded. Every time is from grey pictures in the host's memory to the
last encoding on the card, the median of the rounds. Operations are those of the pictures that were really needed: what
fills up a batch counts as waste. The measured matrix rate is that of one large bf16 product in the same run. Peak bytes
are those above the weights; "all at once" holds every encoding at its end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel

from medvl.planning.shape import PUBLISHED_SHAPES, ModelShape
from medvl.reader.engine.pictures import PictureCache
from medvl.reader.engine.vision import VisionEncoder
from medvl.reader.patches import cut_patches, patch_grid
from tests.reader.engine.towers import draw_pictures, in_bf16, make_tower

Pictures = Sequence[NDArray[np.uint8]]
Row = dict[str, Any]
CHUNK = 10
AT_ONCE = (1, 2, 3, 5, 9, 10, 20, 30)
GIB = 2**30
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
BACKENDS |= {"efficient": SDPBackend.EFFICIENT_ATTENTION}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", choices=PUBLISHED_SHAPES, default="Qwen/Qwen3-VL-8B-Instruct")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also print where the card's time goes")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs an NVIDIA GPU")
    shape = PUBLISHED_SHAPES[arguments.model]
    bench = Bench(shape, draw_pictures(arguments.pictures, arguments.size, arguments.size), arguments.rounds)
    rows = list(bench.rows())
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(bench.setting() | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
    if arguments.profile:
        bench.profile(fastest(rows))


def fastest(rows: Sequence[Row]) -> int:
    return int(min((row for row in rows if row["what"] == "ours, all at once"), key=lambda row: row["ms"])["at_once"])


# --- what is timed -----------------------------------------------------------------------------------------------


class Bench:
    def __init__(self, shape: ModelShape, pictures: Pictures, rounds: int) -> None:
        self._shape, self._pictures, self._rounds = shape, pictures, rounds
        self._tower = in_bf16(make_tower(shape, "cuda", spread=0.02))
        self._size = pictures[0].shape[0]
        self._rate = matrix_rate()
        print(f"{torch.cuda.get_device_name()}: {self._rate / 1e12:.0f} TFLOP/s in one bf16 product", flush=True)

    def setting(self) -> Row:
        versions = {"python": sys.version.split()[0], "torch": torch.__version__}
        versions |= {"cuda": torch.version.cuda, "transformers": transformers.__version__}
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "card": torch.cuda.get_device_name(),
            "versions": versions,
            "pictures": len(self._pictures),
            "size_px": self._size,
            "tflop_per_picture": operations(self._shape, self._size) / 1e12,
            "matrix_tflops": self._rate / 1e12,
        }

    def rows(self) -> Iterator[Row]:
        chunks = list(chunks_of(self._pictures, overlap=0))
        yield self._row("stock, chunk by chunk", len(self._pictures), lambda: self._run_stock(chunks), at_once=CHUNK)
        for count in AT_ONCE:
            yield self._ours("ours, all at once", [self._pictures], count)
        for count in AT_ONCE:
            yield self._ours("ours, chunk by chunk", chunks, count)
        yield from self._overlapping()
        for name, backend in BACKENDS.items():
            what = f"ours, all at once, {name} attention"
            try:
                yield self._ours(what, [self._pictures], CHUNK, backend=backend)
            except RuntimeError as error:  # torch was built without it, or it does not take heads of this size
                print(f"{what}: {str(error).splitlines()[0]}", flush=True)

    def _overlapping(self) -> Iterator[Row]:
        """Time chunks whose first picture is the last of the chunk before."""
        chunks = list(chunks_of(self._pictures, overlap=1))
        yield self._ours("overlap 1 of 10, nothing kept", chunks, CHUNK)
        for count in (3, 9, CHUNK):
            yield self._ours("overlap 1 of 10, kept on the card", chunks, count, device_bytes=64 * GIB)
            yield self._ours("overlap 1 of 10, kept on the host", chunks, count, host_bytes=64 * GIB)
        everything = [[picture for chunk in chunks for picture in chunk]]
        yield self._ours("overlap 1 of 10, all at once", everything, CHUNK)

    def _ours(
        self,
        what: str,
        chunks: Sequence[Pictures],
        at_once: int,
        *,
        device_bytes: int = 0,
        host_bytes: int = 0,
        backend: SDPBackend | None = None,
    ) -> Row:
        encoded = 0

        def run() -> None:
            nonlocal encoded
            cache = PictureCache(device_bytes=device_bytes, host_bytes=host_bytes)
            encoder = VisionEncoder(self._tower, self._shape, cache=cache, pixels_at_once=at_once * self._size**2)
            with sdpa_kernel(backend) if backend else nullcontext():
                for chunk in chunks:
                    encoder.encode(chunk)
            encoded = cache.counts.encoded

        run()  # kernels are loaded and chosen
        return self._row(what, encoded, run, at_once=at_once)

    @torch.inference_mode()
    def _run_stock(self, chunks: Sequence[Pictures]) -> None:
        for chunk in chunks:
            grey = torch.from_numpy(np.stack(chunk)).cuda()
            grid = torch.tensor([patch_grid(*picture.shape[:2], self._shape) for picture in chunk], device="cuda")
            self._tower(cut_patches(grey, self._shape, torch.bfloat16), grid)

    def _row(self, what: str, encoded: int, run: Callable[[], None], *, at_once: int) -> Row:
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        queued, whole = zip(*(timed(run) for _ in range(self._rounds)), strict=True)
        rate = encoded * operations(self._shape, self._size) / median(whole)
        row = {
            "what": what,
            "at_once": at_once,
            "encoded": encoded,
            "ms": 1000 * median(whole),
            "host_ms": 1000 * median(queued),  # until all is queued; near ms where the queue is full
            "tflops": rate / 1e12,
            "share_of_matrix_rate": rate / self._rate,
            "peak_bytes": torch.cuda.max_memory_allocated() - before,
        }
        print(
            f"{what:42} {at_once:3} at once {encoded:4} encoded {row['ms']:8.1f} ms (host {row['host_ms']:7.1f}) "
            f"{row['tflops']:6.1f} TFLOP/s {row['share_of_matrix_rate']:5.1%} peak {row['peak_bytes'] / GIB:5.2f} GiB",
            flush=True,
        )
        return row

    def profile(self, at_once: int) -> None:
        cache = PictureCache(device_bytes=0, host_bytes=0)
        encoder = VisionEncoder(self._tower, self._shape, cache=cache, pixels_at_once=at_once * self._size**2)
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profiler:
            encoder.encode(self._pictures[: 3 * at_once])
            torch.cuda.synchronize()
        print(profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=14, max_name_column_width=90))


def chunks_of(pictures: Pictures, overlap: int) -> Iterator[Pictures]:
    for start in range(0, len(pictures) - overlap, CHUNK - overlap):
        yield pictures[start : start + CHUNK]


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds until all is queued, and until all is done."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    queued = time.perf_counter() - start
    torch.cuda.synchronize()
    return queued, time.perf_counter() - start


# --- limits ------------------------------------------------------------------------------------------------------


def operations(shape: ModelShape, size_px: int) -> float:
    """Return the multiplications and additions one grey picture needs in matrix products and attention."""
    patches, width, wide = (size_px // shape.patch_px) ** 2, shape.vision_hidden, shape.vision_hidden * shape.merge**2
    linear = shape.vision_layers * (4 * width**2 + 2 * width * shape.vision_mlp) + shape.patch_px**2 * width
    merger = (1 + len(shape.deepstack)) * (wide**2 + wide * shape.hidden) / shape.merge**2
    attention = shape.vision_layers * 2 * patches * width
    return 2 * patches * (linear + merger + attention)


def matrix_rate(side: int = 8192, times: int = 20) -> float:
    """Measure operations per second of one large bf16 product."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    a @ b
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 2 * side**3 * times / (start.elapsed_time(end) / 1000)


if __name__ == "__main__":
    main()
