"""Writes small NIfTI, NRRD and MetaImage files, with SimpleITK and by hand, and looks at what is made of them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medvl.dicom.geometry import slabs, stack_series
from medvl.dicom.grey import render
from medvl.dicom.scan import scan
from medvl.records import Rendering, Slice, Stack, Vector, Window
from tests.dicom.scanning import only_series

Axes = tuple[Vector, Vector, Vector]  # of increasing column, row and slice index
AXIAL_AXES: Axes = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
META_HEADER = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 3\nElementType = MET_SHORT\n"
NRRD_HEADER = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 3\nendian: little\nencoding: raw\n"


def noise(*shape: int, highest: int = 100) -> NDArray[np.int16]:
    """Values that look like a picture without a known unit."""
    return np.random.default_rng(0).integers(0, highest, shape).astype(np.int16)


def write_volume(
    path: Path,
    values: NDArray[Any],
    *,
    axes: Axes = AXIAL_AXES,
    spacing: Vector = (1, 1, 1),
    origin: Vector = (0, 0, 0),
    vectors: bool = False,
    compressed: bool = False,
) -> Path:
    """values: (slices, rows, columns), or one more in front for several volumes, or behind for vectors."""
    image = sitk.GetImageFromArray(values, isVector=vectors)
    more = image.GetDimension() - 3
    image.SetSpacing((*spacing, *[1.0] * more))
    image.SetOrigin((*origin, *[0.0] * more))
    matrix = np.eye(image.GetDimension())
    matrix[:3, :3] = np.transpose(axes)
    image.SetDirection(matrix.ravel())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), compressed)
    return path


def nifti_bytes(
    values: NDArray[np.int16],
    *,
    rows: tuple[tuple[float, ...], ...] = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)),
    placed: bool = True,
    steps: Vector = (1, 1, 1),
    scaling: tuple[float, float] = (1, 0),
    size: Vector | None = None,
    order: str = "<",
) -> bytes:
    """Encode a NIfTI-1 file by hand. rows: of the matrix from (i, j, k, 1) to millimetres, x to the patient's right."""
    head = bytearray(352)
    struct.pack_into(f"{order}i", head, 0, 348)
    struct.pack_into(f"{order}8h", head, 40, 3, *(size or values.shape[::-1]), 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", head, 70, 4, 16)  # 16-bit signed
    struct.pack_into(f"{order}8f", head, 76, 1, *steps, 0, 0, 0, 0)
    struct.pack_into(f"{order}3f", head, 108, 352, *scaling)
    head[123] = 2  # millimetres
    struct.pack_into(f"{order}2h", head, 252, 0, int(placed))
    struct.pack_into(f"{order}12f", head, 280, *(number for row in rows for number in row))
    head[344:348] = b"n+1\0"
    return bytes(head) + values.astype(f"{order}i2").tobytes()


def nrrd_bytes(*fields: str) -> bytes:
    """Encode three slices of noise as NRRD by hand."""
    return "".join([NRRD_HEADER, *(f"{field}\n" for field in fields), "\n"]).encode() + noise(3, 4, 4).tobytes()


def meta_bytes(*fields: str) -> bytes:
    """Encode three slices of noise as MetaImage by hand."""
    lines = (*fields, "ElementDataFile = LOCAL")
    return "".join([META_HEADER, *(f"{line}\n" for line in lines)]).encode() + noise(3, 4, 4).tobytes()


def stacks_of(path: Path) -> tuple[Stack, ...]:
    """Scan a file or folder with one series, and stack it."""
    return stack_series(only_series(scan([path], processes=1)))[0]


def bright_places(stack: Stack, window: Window) -> list[tuple[NDArray[np.float64], Vector]]:
    """Find what is bright in the pictures of single slices: its centre in the picture, and in the patient."""
    found = []
    for slab in slabs(stack, None):
        picture = render(slab, Rendering((window,), 320), stack.turn)
        rows, columns = np.nonzero(picture.grey > 127)
        if rows.size:
            centre = np.array((columns.mean() + 0.5, rows.mean() + 0.5, 1.0))
            assert picture.geometry.lps_from_px is not None
            found.append((centre[:2], tuple(np.asarray(picture.geometry.lps_from_px) @ centre)))
    return found


def numbers(slices: tuple[Slice, ...]) -> list[int]:
    """Where in the file each slice lies, in reading order."""
    return [each.frame.index for each in slices]
