"""Keeps what the vision tower made of pictures, on the device, the host or disk, so that none is encoded twice.

Knows nothing of how pictures are encoded. On disk only when a folder is given: encoded pictures of patients, like the
pictures themselves, are private.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medvl.files import write_private

_FORM = "medvl encoded picture 1"  # changes with what a file holds and with the vision arithmetic
_TENSOR = "encoded"


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
    folder_hits: int = 0
    misses: int = 0
    encoded: int = 0  # pictures given to keep

    @property
    def hits(self) -> int:
        """Pictures that did not have to be encoded."""
        return self.device_hits + self.host_hits + self.folder_hits


def picture_key(picture: NDArray[np.uint8]) -> str:
    """Return the digest that stands for a picture: its size, its colours and every pixel."""
    digest = hashlib.blake2b(str(picture.shape).encode(), digest_size=20)
    digest.update(picture.tobytes())
    return digest.hexdigest()


def encoding_fingerprint(checkpoint: str, dtype: torch.dtype) -> str:
    """Return the digest that stands for all that decides an encoding besides the picture.

    checkpoint: fingerprint of the checkpoint. The vision tower is never quantised, so all precisions computed in one
    number type share their encodings.
    """
    return hashlib.blake2b(f"{_FORM}\n{checkpoint}\n{dtype}".encode(), digest_size=20).hexdigest()


class PictureCache:
    """Encoded pictures within bounds, those used longest ago out first: from the device to the host to nowhere.

    A picture lies in one of the two memories at a time. One cache serves one model.
    """

    def __init__(self, *, device_bytes: int, host_bytes: int, folder: PictureFolder | None = None) -> None:
        """device_bytes, host_bytes: the most to hold there; the host's memory is page-locked for a GPU."""
        self._device = _Shelf(device_bytes, _bytes)
        self._host = _Shelf(host_bytes, _locked_bytes)
        self._folder = folder
        self.counts = CacheCounts()

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

        Never waits for the device, except for a folder's disk.
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
        if self._folder is None or (stored := self._folder.load(key)) is None:
            return None
        self.counts.folder_hits += 1
        values = stored.to(device)
        self._hold(key, values)
        return values

    def keep(self, key: str, encoded: Encoded) -> None:
        """Take in a picture that was just encoded.

        Raises OutputError if there is a folder and it cannot be written.
        """
        self.counts.encoded += 1
        self._hold(key, encoded.values)
        if self._folder is not None:
            self._folder.save(key, encoded.values)

    def clear(self) -> None:
        """Give back both memories; the folder stays."""
        self._device.clear()
        self._host.clear()

    def _hold(self, key: str, values: Tensor) -> None:
        leaving = self._device.put(key, values) if self._device.fits(values) else [(key, values)]
        for old_key, old in leaving:
            if self._host.fits(old):
                self._host.make_room(old)  # first, so that the bound holds at every moment
                self._host.put(old_key, _to_host(old))


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """Encoded pictures on disk, one private file each. It has no bound; delete it at any time.

    fingerprint: see `encoding_fingerprint`.
    """

    folder: Path
    fingerprint: str

    def load(self, key: str) -> Tensor | None:
        """Return a picture's encoding in the host's memory; None if its file is missing, broken or not ours."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                if file.metadata() != self._marks(key):
                    return None
                values: Tensor = file.get_tensor(_TENSOR)
                return values
        except (OSError, SafetensorError):
            return None

    def save(self, key: str, values: Tensor) -> None:
        """Write a picture's encoding, whole or not at all; waits for the device. Raises OutputError."""
        write_private(self._path(key), save({_TENSOR: values.cpu()}, metadata=self._marks(key)))

    def _path(self, key: str) -> Path:
        return self.folder / self.fingerprint[:16] / f"{key}.safetensors"

    def _marks(self, key: str) -> dict[str, str]:
        return {"form": _FORM, "fingerprint": self.fingerprint, "picture": key}


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
