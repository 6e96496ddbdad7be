"""How a phantom is scanned: geometry, sharpness, noise, and how the scanner lays out what it stores.

Knows nothing of files. A slice comes out as stored values; where its pixels lie is told by the same numbers that go
into the header, so the truth in LPS is the same however the study is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvl.evaluate.field import noise_pattern, noise_strength, paint_near, render
from medvl.evaluate.phantoms import Phantom
from medvl.evaluate.shapes import Grid
from medvl.records import Plane, Vector

_LEAST_HU, _MOST_HU = -1024, 3071


@dataclass(frozen=True, slots=True)
class Storage:
    """How axial slices are turned and ordered in the files."""

    name: str
    patient_position: str  # (0018,5100)
    row_cosines: Vector
    column_cosines: Vector
    from_head: bool = False  # the first instance is the one nearest to the head


STORAGES = (
    Storage("head first supine", "HFS", (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    Storage("reversed order", "HFS", (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), from_head=True),
    Storage("feet first supine", "FFS", (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), from_head=True),
    Storage("flipped columns", "HFS", (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    Storage("head first prone", "HFP", (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How HU become stored values. padding: stored outside the circle of reconstruction, None where there is none."""

    intercept: int
    signed: bool
    bits_stored: int
    padding: int | None


ENCODINGS = (
    Encoding(intercept=-1024, signed=False, bits_stored=12, padding=None),
    Encoding(intercept=-1024, signed=True, bits_stored=16, padding=-2000),
    Encoding(intercept=0, signed=True, bits_stored=16, padding=-3024),
    Encoding(intercept=-8192, signed=False, bits_stored=16, padding=0),
)


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One axial series."""

    pixel_spacing_mm: float = 0.75
    slice_thickness_mm: float = 5.0
    slice_spacing_mm: float = 5.0
    bottom_mm: float = -190.0  # of the lowest slice's centre, less the phantom's origin
    slice_count: int = 64
    size_px: int = 512
    offset_mm: tuple[float, float] = (0.0, 5.0)  # of the picture's middle from the phantom's origin
    blur_mm: float = 1.0  # width of a sharp edge, at least a pixel
    noise_hu: float = 12.0
    grain: float = 0.2  # see field.noise_pattern
    storage: Storage = STORAGES[0]
    encoding: Encoding = ENCODINGS[0]


def draw_acquisition(seed: int, phantom: Phantom) -> Acquisition:
    """Draw a series that covers the phantom's whole chest."""
    rng = np.random.default_rng([seed, 1])
    thorax = phantom.scene.thorax
    recess = min(thorax.left_dome, thorax.right_dome) - thorax.dome_drop - thorax.dome_tilt
    thickness = float(rng.choice((1.0, 1.25, 2.0, 2.5, 3.0, 4.0, 5.0), p=(0.05, 0.1, 0.15, 0.2, 0.2, 0.1, 0.2)))
    spacing = thickness * float(rng.choice((1.0, 0.8), p=(0.75, 0.25)))
    pixel_mm = round(float(rng.uniform(0.6, 1.0)), 4)
    return Acquisition(
        pixel_spacing_mm=pixel_mm,
        slice_thickness_mm=thickness,
        slice_spacing_mm=spacing,
        bottom_mm=round(float(recess - rng.uniform(10, 25)), 2),
        slice_count=int((thorax.cage_top - recess + 40) / spacing),
        offset_mm=(round(float(rng.uniform(-15, 15)), 2), round(float(rng.uniform(-5, 15)), 2)),
        blur_mm=round(max(pixel_mm, float(rng.uniform(0.7, 1.4))), 3),
        noise_hu=round(float(rng.uniform(8, 40)), 1),
        grain=round(float(rng.uniform(-0.12, 0.35)), 3),
        storage=STORAGES[rng.integers(len(STORAGES))],
        encoding=ENCODINGS[rng.integers(len(ENCODINGS))],
    )


def slice_plane(phantom: Phantom, acquisition: Acquisition, index: int) -> Plane:
    """Return where slice `index` lies in the patient; slices count from the feet upwards."""
    storage = acquisition.storage
    half_mm = 0.5 * (acquisition.size_px - 1) * acquisition.pixel_spacing_mm
    x, y, z = phantom.origin_lps_mm
    first_x = x + acquisition.offset_mm[0] - storage.row_cosines[0] * half_mm
    first_y = y + acquisition.offset_mm[1] - storage.column_cosines[1] * half_mm
    first_z = z + acquisition.bottom_mm + index * acquisition.slice_spacing_mm
    corner = (round(first_x, 4), round(first_y, 4), round(first_z, 4))
    return Plane(corner, storage.row_cosines, storage.column_cosines)


def slice_grid(phantom: Phantom, acquisition: Acquisition, plane: Plane) -> Grid:
    """Return the pixel centres of a plane, in stored order, less the phantom's origin."""
    steps = np.arange(acquisition.size_px) * acquisition.pixel_spacing_mm
    x, y, z = (p - o for p, o in zip(plane.position_lps_mm, phantom.origin_lps_mm, strict=True))
    columns = (x + plane.row_cosines[0] * steps).astype(np.float32)[None]
    rows = (y + plane.column_cosines[1] * steps).astype(np.float32)[:, None]
    return Grid(
        columns, rows, np.float32(z), np.float32(acquisition.blur_mm), np.float32(acquisition.slice_thickness_mm)
    )


def scan_slice(phantom: Phantom, acquisition: Acquisition, index: int) -> NDArray[np.int32]:
    """Return the stored values (rows, columns) of one slice, noise included."""
    grid = slice_grid(phantom, acquisition, slice_plane(phantom, acquisition, index))
    scene = phantom.scene
    table_side = np.float32(-1 if acquisition.storage.patient_position.endswith("P") else 1)
    scene = scene._replace(thorax=scene.thorax._replace(table_side=table_side))
    side = acquisition.size_px
    white = np.random.default_rng([phantom.seed, 2, index]).standard_normal((side + 2, side + 2), np.float32)
    noise = noise_pattern(white, acquisition.grain) * noise_strength(np, grid, scene.thorax)
    hu = render(np, scene, grid, paint_near) + acquisition.noise_hu * noise
    return _stored(hu, acquisition)


def _stored(hu: NDArray[np.float32], acquisition: Acquisition) -> NDArray[np.int32]:
    encoding = acquisition.encoding
    stored = np.rint(np.clip(hu, _LEAST_HU, _MOST_HU)).astype(np.int32) - encoding.intercept
    if encoding.padding is not None:
        steps = np.arange(acquisition.size_px) - 0.5 * (acquisition.size_px - 1)
        outside = steps[:, None] ** 2 + steps**2 > (0.5 * acquisition.size_px) ** 2
        stored[outside] = encoding.padding
    return stored
