"""Keeps what the vision tower made of pictures, on the device and on the host, so that none is encoded twice.

Knows nothing of how pictures are encoded. Nothing goes to disk: reading it back would hardly be faster than encoding,
and an encoded picture of a patient is as private as the picture.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the vision tower made of one picture, in the model's number type.

    values: (1 + deepstack, t, hidden) for t vision tokens, in memory of their own.
    """

    values: Tensor

    @property
    def tokens(self) -> Tensor:
        """(t, hidden): what stands in the prompt."""
        return self.values[0]

    @property
    def deep(self) -> Tensor:
        """(deepstack, t, hidden): what the early text layers add."""
        return self.values[1:]


@dataclass(slots=True)
class CacheCounts:
    """How often pictures were asked for and where they were found."""

    device_hits: int = 0
    host_hits: int = 0
    misses: int = 0
    encoded: int = 0  # pictures given to keep

    @property
    def hits(self) -> int:
        """Pictures that did not have to be encoded."""
        return self.device_hits + self.host_hits


def picture_key(picture: NDArray[np.uint8]) -> str:
    """Return the digest that stands for a picture: its size, its colours and every pixel."""
    digest = hashlib.blake2b(str(picture.shape).encode(), digest_size=20)
    digest.update(picture.tobytes())
    return digest.hexdigest()


class PictureCache:
    """Encoded pictures within bounds, those used longest ago out first: from the device to the host to nowhere.

    A picture lies in one of the two memories at a time. One cache serves one model.
    """

    def __init__(self, *, device_bytes: int, host_bytes: int) -> None:
        """device_bytes, host_bytes: the most to hold there; the host's memory is page-locked for a GPU."""
        self.counts = CacheCounts()
        self.limit(device_bytes=device_bytes, host_bytes=host_bytes)

    def limit(self, *, device_bytes: int, host_bytes: int) -> None:
        """Set other bounds, and begin anew."""
        self._device = _Shelf(device_bytes, _bytes)
        self._host = _Shelf(host_bytes, _locked_bytes)

    @property
    def device_bytes(self) -> int:
        """Bytes held on the device now."""
        return self._device.held_bytes

    @property
    def host_bytes(self) -> int:
        """Bytes held on the host now."""
        return self._host.held_bytes

    def find(self, key: str, device: torch.device) -> Encoded | None:
        """Return a picture's encoding on the device, or None if it must be encoded.

        Never waits for the device.
        """
        values = self._find(key, device)
        if values is None:
            self.counts.misses += 1
            return None
        return Encoded(values)

    def _find(self, key: str, device: torch.device) -> Tensor | None:
        if (held := self._device.find(key)) is not None:
            self.counts.device_hits += 1
            return held
        if (locked := self._host.find(key)) is not None:
            self.counts.host_hits += 1
            values = locked.to(device, non_blocking=True, copy=True)
            if self._device.fits(values):
                self._host.drop(key)
                self._hold(key, values)
            return values
        return None

    def keep(self, key: str, encoded: Encoded) -> None:
        """Take in a picture that was just encoded."""
        self.counts.encoded += 1
        self._hold(key, encoded.values)

    def clear(self) -> None:
        """Give back both memories."""
        self._device.clear()
        self._host.clear()

    def _hold(self, key: str, values: Tensor) -> None:
        leaving = self._device.put(key, values) if self._device.fits(values) else [(key, values)]
        for old_key, old in leaving:
            if self._host.fits(old):
                self._host.make_room(old)  # first, so that the bound holds at every moment
                with suppress(RuntimeError, MemoryError):  # keeping is a luxury: without room it is encoded again
                    self._host.put(old_key, _to_host(old))


class _Shelf:
    """Tensors within a number of bytes, in the order of their last use."""

    def __init__(self, limit_bytes: int, cost: Callable[[Tensor], int]) -> None:
        self._limit_bytes, self._cost = limit_bytes, cost
        self._tensors: OrderedDict[str, Tensor] = OrderedDict()
        self.held_bytes = 0

    def find(self, key: str) -> Tensor | None:
        """Return a tensor and note its use."""
        if key in self._tensors:
            self._tensors.move_to_end(key)
        return self._tensors.get(key)

    def fits(self, values: Tensor) -> bool:
        """Whether the tensor could be here, were it alone."""
        return self._cost(values) <= self._limit_bytes

    def put(self, key: str, values: Tensor) -> list[tuple[str, Tensor]]:
        """Hold a tensor that fits; return those that had to leave, the one used longest ago first."""
        self.drop(key)
        leaving = self.make_room(values)
        self._tensors[key] = values
        self.held_bytes += self._cost(values)
        return leaving

    def make_room(self, values: Tensor) -> list[tuple[str, Tensor]]:
        """Let go of tensors until this one can come; return them."""
        leaving = []
        while self.held_bytes + self._cost(values) > self._limit_bytes:
            key, oldest = self._tensors.popitem(last=False)
            self.held_bytes -= self._cost(oldest)
            leaving.append((key, oldest))
        return leaving

    def drop(self, key: str) -> None:
        """Let go of a tensor, if it is here."""
        if (values := self._tensors.pop(key, None)) is not None:
            self.held_bytes -= self._cost(values)

    def clear(self) -> None:
        """Let go of everything."""
        self._tensors.clear()
        self.held_bytes = 0


def _bytes(values: Tensor) -> int:
    return values.numel() * values.element_size()


def _locked_bytes(values: Tensor) -> int:
    """Return what torch takes for a page-locked tensor: it hands such memory out in powers of two."""
    return 1 << (_bytes(values) - 1).bit_length()


def _to_host(values: Tensor) -> Tensor:
    """Copy to the host without waiting: torch reuses neither memory before the copy has ended."""
    locked = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
    return locked.copy_(values, non_blocking=True)
