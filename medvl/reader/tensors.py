"""Reads tensors from safetensors files onto a device, in pieces that several threads read ahead.

Reading through a mapped file, as safetensors and transformers do, is bound by one thread's page faults; reading into a
ring of pinned buffers keeps disk, memory and bus busy at once. Knows nothing of models.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from medvl.reader.checkpoint import TensorPlace

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PIECE_BYTES = 16 * 2**20  # long enough for full speed, short enough that scratch memory stays small
_AHEAD = 12  # pieces read before they are asked for
_THREADS = 8


def read_pieces(places: Iterable[TensorPlace], device: torch.device) -> Iterator[tuple[TensorPlace, slice, Tensor]]:
    """Read tensors piece by piece: (which tensor, which of its rows, their values on the device).

    The values have the file's type, one of `DTYPES`, and are good until the next piece is asked for.
    Raises OSError if a file cannot be read or ends early.
    """
    pieces = [(place, rows) for place in places for rows in _split(place)]
    longest = max((_row_bytes(place) * (rows.stop - rows.start) for place, rows in pieces), default=0)
    pinned = device.type == "cuda"
    free = [torch.empty(longest, dtype=torch.uint8, pin_memory=pinned) for _ in range(min(_AHEAD, len(pieces)))]
    unread, reading = iter(pieces), deque[tuple[Tensor, Future[Tensor]]]()
    with ThreadPoolExecutor(_THREADS) as threads:
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


def _split(place: TensorPlace) -> Iterator[slice]:
    rows, step = place.shape[0], max(1, _PIECE_BYTES // max(_row_bytes(place), 1))
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


def _row_bytes(place: TensorPlace) -> int:
    return place.size_bytes // max(place.shape[0], 1)


def _read(place: TensorPlace, rows: slice, buffer: Tensor) -> Tensor:
    size = _row_bytes(place) * (rows.stop - rows.start)
    space = buffer.numpy().data[:size]
    with place.path.open("rb", buffering=0) as file:
        file.seek(place.offset + _row_bytes(place) * rows.start)
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
