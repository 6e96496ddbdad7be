"""What is known of a volume file before its voxels are read, and what its values look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvl.records import Vector

Look = Literal["HU", "labels", ""]

# No other modality's values lie around −1000 and around 0. Air and soft tissue are each in nearly every CT slice.
AIR_HU, TISSUE_HU = (-1100.0, -900.0), (-200.0, 300.0)
LEAST_SHARE = 0.01
LOWEST_HU = -4096.0  # of 12 bits; padding may be −2000, −2048 or −3024
LABELS_FROM_EQUAL = 0.8  # of neighbouring pixels; noise alone keeps pictures of patients well below


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """A volume's header. Of two-dimensional files there is one slice, of three-dimensional ones one volume."""

    columns: int
    rows: int
    slices: int  # of one volume
    volumes: int  # one after the other in time
    sample_type: str  # as NumPy spells it
    samples: int  # at each voxel
    readable: int  # slices of all volumes, from the first on, whose voxels are in the file
    spacing_mm: Vector | None  # between columns, rows and slices
    origin_lps_mm: Vector | None  # centre of the first voxel
    axes: tuple[Vector, Vector, Vector] | None  # unit vectors of increasing column, row and slice index
    digest: str  # of the file's bytes, hexadecimal
    look: Look


def look_of(values: NDArray[Any]) -> Look:
    """Guess what the values of some slices are: Hounsfield units, the numbers of a label map, or nobody knows.

    values: (slices, rows, columns), of a single sample.
    """
    values = values.astype(np.float32)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return ""
    if finite.min() >= LOWEST_HU and min(_share(finite, AIR_HU), _share(finite, TISSUE_HU)) >= LEAST_SHARE:
        return "HU"
    return "labels" if finite.size == values.size and _are_labels(values) else ""


def _share(values: NDArray[np.float32], between: tuple[float, float]) -> float:
    return float(np.mean((values >= between[0]) & (values <= between[1])))


def _are_labels(values: NDArray[np.float32]) -> bool:
    """Say whether these are whole numbers from 0 on, mostly the same as the one before wherever they are not 0."""
    if values.min() < 0 or np.any(values != np.rint(values)):
        return False
    before, after = values[..., :-1], values[..., 1:]
    labelled = (before > 0) & (after > 0)
    return not labelled.any() or float(np.mean(before[labelled] == after[labelled])) >= LABELS_FROM_EQUAL
