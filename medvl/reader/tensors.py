"""Moves tensors between safetensors files and a device, in pieces that several threads read or write ahead.

Reading through a mapped file, as safetensors and transformers do, is bound by one thread's page faults; reading into a
ring of pinned buffers keeps disk, memory and bus busy at once. Knows nothing of models.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from medvl.reader.checkpoint import TensorPlace

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I8": torch.int8}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE_BYTES = 16 * 2**20  # long enough for full speed, short enough that scratch memory stays small
_AHEAD = 12  # pieces read before they are asked for
_THREADS = 8
_ALIGNMENT = 8

Count = Callable[[int], None]  # told of bytes as they are done


def read_pieces(places: Iterable[TensorPlace], device: torch.device) -> Iterator[tuple[TensorPlace, slice, Tensor]]:
    """Read tensors piece by piece: (which tensor, which of its rows, their values on the device).

    The values have the file's type, one of `DTYPES`, and are good until the next piece is asked for.
    Raises OSError if a file cannot be read or ends early.
    """
    pieces = [(place, rows) for place in places for rows in _split(place.shape, DTYPES[place.dtype])]
    longest = max((_byte_count(place, rows) for place, rows in pieces), default=0)
    pinned = device.type == "cuda"
    free = [torch.empty(longest, dtype=torch.uint8, pin_memory=pinned) for _ in range(min(_AHEAD, len(pieces)))]
    unread, reading = iter(pieces), deque[tuple[Tensor, Future[Tensor]]]()
    with _threads() as threads:
        for place, rows in pieces:
            while free and (ahead := next(unread, None)):
                buffer = free.pop()
                reading.append((buffer, threads.submit(_read, *ahead, buffer)))
            buffer, read = reading.popleft()
            values = read.result().to(device, non_blocking=True)
            arrived = _arrival(device)
            yield place, rows, values
            arrived()
            free.append(buffer)


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that drop what they have not begun as soon as the block ends, however it ends."""
    threads = ThreadPoolExecutor(_THREADS)
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def _split(shape: Sequence[int], dtype: torch.dtype) -> Iterator[slice]:
    rows, row_bytes = shape[0], math.prod(shape[1:]) * dtype.itemsize
    step = max(1, _PIECE_BYTES // max(row_bytes, 1))
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


def _byte_count(place: TensorPlace, rows: slice) -> int:
    return int((rows.stop - rows.start) * place.size_bytes // max(place.shape[0], 1))


def _read(place: TensorPlace, rows: slice, buffer: Tensor) -> Tensor:
    size = _byte_count(place, rows)
    space = buffer.numpy().data[:size]
    with place.path.open("rb", buffering=0) as file:
        file.seek(place.offset + _byte_count(place, slice(0, rows.start)))
        while space:
            if not (count := file.readinto(space)):
                raise OSError(f"{place.path.name} ends inside {place.name}")
            space = space[count:]
    return buffer[:size].view(DTYPES[place.dtype]).view(-1, *place.shape[1:])


def _arrival(device: torch.device) -> Callable[[], None]:
    """Return what waits until all copies asked for so far are on the device."""
    if device.type != "cuda":
        return lambda: None
    event: torch.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event.synchronize


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return how many bytes `write_tensors` writes besides the header."""
    return sum(tensor.nbytes for tensor in tensors.values())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], count: Count) -> None:
    """Write tensors, from whatever device, as one safetensors file; an older one is lost. Raises OSError."""
    # Widest types first, so that every tensor begins at a multiple of its own item.
    order = sorted(tensors, key=lambda name: -tensors[name].itemsize)
    header, offsets = _lay_out(order, tensors, metadata)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + file_bytes(tensors))
    pieces = [
        (tensors[name][rows], len(header) + offsets[name] + rows.start * (tensors[name].nbytes // len(tensors[name])))
        for name in order
        for rows in _split(tensors[name].shape, tensors[name].dtype)
    ]
    with _threads() as threads:
        for size in threads.map(lambda piece: _write(path, *piece), pieces):
            count(size)


def _lay_out(
    order: Sequence[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    offsets, end = {}, 0
    for name in order:
        tensor = tensors[name]
        offsets[name], end = end, end + tensor.nbytes
        place = {"shape": list(tensor.shape), "data_offsets": [offsets[name], end]}
        entries[name] = {"dtype": _NAMES[tensor.dtype], **place}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, offsets


def _write(path: Path, values: Tensor, offset: int) -> int:
    space = values.cpu().contiguous().view(-1).view(torch.uint8).numpy().data
    size = len(space)
    with path.open("r+b", buffering=0) as file:
        file.seek(offset)
        while space:
            space = space[file.write(space) :]
    return size
