"""Reads NIfTI, NRRD and MetaImage files with SimpleITK. Only `volume_worker` imports this, in a process of its own.

SimpleITK allocates what a header claims, so sizes are compared with the file first. What else it takes for granted is
kept in `volume_header`.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medvl.dicom.decoders import DecodeError
from medvl.dicom.layout import MAX_FRAME_PIXELS, MAX_FRAMES
from medvl.dicom.volume_facts import Look, VolumeFacts, look_of
from medvl.dicom.volume_header import Voxels, count_stored_bytes, meta_voxels, nifti_voxels, nrrd_voxels
from medvl.records import Vector

MAX_WHOLE_BYTES = 1 << 30  # of a volume that can only be read whole; a CT of 2,000 slices fits
SAMPLED_SLICES = 9
_RIGHT_ANGLE_ERROR = 0.01  # of a cosine
_SAMPLE_TYPES = {
    getattr(sitk, f"sitk{kind}{name}"): np.dtype(name.lower())
    for kind in ("", "Vector")
    for name in ("UInt8", "Int8", "UInt16", "Int16", "UInt32", "Int32", "UInt64", "Int64", "Float32", "Float64")
}


_FAILURES = (EOFError, LookupError, MemoryError, OSError, RuntimeError, ValueError, struct.error, zlib.error)


class _Shape(NamedTuple):
    columns: int
    rows: int
    slices: int
    volumes: int


class Volume:
    """An open file: its facts, and its slices one by one."""

    def __init__(self, path: Path) -> None:
        """Open a file. Raises DecodeError if SimpleITK cannot read it, or must not."""
        form = _FORMATS[path.name.lower().removesuffix(".gz").rpartition(".")[2]]
        with _own_words():
            self._voxels = form.find_voxels(path)
            self._reader = _information(path, form.image_io)
        self._shape = _shape_of(self._reader)
        self._type = _sample_type(self._reader)
        self._samples: int = self._reader.GetNumberOfComponents()
        self._readable = self._count_readable()
        self.facts = self._facts(path)

    def slice(self, index: int) -> NDArray[Any]:
        """Read one slice; those of the first volume come first.

        Returns (rows, columns), or (rows, columns, samples). Raises DecodeError.
        """
        if not 0 <= index < self._readable:
            raise DecodeError("the file has changed since it was listed")
        columns, rows, slices, _ = self._shape
        shape = (-1, rows, columns, self._samples) if self._samples > 1 else (-1, rows, columns)
        if self._voxels.whole:
            return np.asarray(sitk.GetArrayViewFromImage(self._whole).reshape(shape)[index])
        place = (0, 0, index % slices, index // slices)[: self._reader.GetDimension()]
        self._reader.SetExtractIndex(place)
        self._reader.SetExtractSize((columns, rows, 1, 1)[: len(place)])
        with _own_words():
            return np.asarray(sitk.GetArrayFromImage(self._reader.Execute()).reshape(shape)[0])

    @cached_property
    def _whole(self) -> sitk.Image:
        with _own_words():
            return self._reader.Execute()

    def _count_readable(self) -> int:
        """Count the slices whose voxels are in the file. Raises DecodeError over sizes that no volume can have."""
        columns, rows, slices, volumes = self._shape
        count, pixels = slices * volumes, columns * rows * self._samples
        if not 0 < pixels <= MAX_FRAME_PIXELS or not 0 < count <= MAX_FRAMES:
            raise DecodeError(f"impossible size ({' × '.join(map(str, self._reader.GetSize()))})")
        if self._voxels.whole and count * pixels * self._type.itemsize > MAX_WHOLE_BYTES:
            raise DecodeError(
                f"it would take {count * pixels * self._type.itemsize} bytes once read",
                f"Of files that can only be read whole, at most {MAX_WHOLE_BYTES} bytes are",
            )
        slice_bytes = pixels * (self._voxels.stored_bits or 8 * self._type.itemsize) // 8
        there = count_stored_bytes(self._voxels, count * slice_bytes) // slice_bytes
        return there if there == count or self._voxels.in_parts else 0

    def _facts(self, path: Path) -> VolumeFacts:
        spacing = _spacing_mm(self._reader) if self._voxels.spaced else None
        axes = _axes(self._reader) if self._voxels.placed and spacing else None
        origin = self._reader.GetOrigin()[:3]
        return VolumeFacts(
            *self._shape,
            sample_type=self._type.str,
            samples=self._samples,
            readable=self._readable,
            spacing_mm=spacing,
            origin_lps_mm=(origin[0], origin[1], origin[2]) if axes else None,
            axes=axes,
            digest=_digest(path, self._voxels.path),
            look=self._look(),
        )

    def _look(self) -> Look:
        """Look at some slices of the first volume."""
        count = min(self._readable, self._shape.slices)
        if self._samples > 1 or count == 0:
            return ""
        places = sorted({round(place) for place in np.linspace(0, count - 1, SAMPLED_SLICES)})
        return look_of(np.stack([self.slice(place) for place in places]))


# --- what SimpleITK says -----------------------------------------------------------------------------------------


@contextmanager
def _own_words() -> Iterator[None]:
    """Raise DecodeError for what SimpleITK raises, whose words hold paths and lines of its source."""
    try:
        yield
    except DecodeError:
        raise
    except _FAILURES as error:
        if "orthonormal" in str(error):
            raise DecodeError("its axes are not at right angles") from error
        raise DecodeError("SimpleITK cannot read it: it is damaged, or of an unknown kind") from error


def _information(path: Path, image_io: str) -> sitk.ImageFileReader:
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)  # else one of another name may feel responsible
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _shape_of(reader: sitk.ImageFileReader) -> _Shape:
    size = reader.GetSize()
    if not 2 <= len(size) <= 4:
        raise DecodeError(f"{len(size)} dimensions; 2 to 4 are read")
    columns, rows, slices, volumes = (*size, 1, 1)[:4]
    return _Shape(columns, rows, slices, volumes)


def _sample_type(reader: sitk.ImageFileReader) -> np.dtype[Any]:
    kind = _SAMPLE_TYPES.get(reader.GetPixelID())
    if kind is None:
        raise DecodeError(f"no grey values ({sitk.GetPixelIDValueAsString(reader.GetPixelID())})")
    return kind


def _spacing_mm(reader: sitk.ImageFileReader) -> Vector | None:
    across, down, along = (*reader.GetSpacing(), 1.0)[:3]
    return (across, down, along) if all(0 < mm < math.inf for mm in (across, down, along)) else None


def _axes(reader: sitk.ImageFileReader) -> tuple[Vector, Vector, Vector] | None:
    """Return the directions of increasing column, row and slice index; None for a flat picture."""
    if reader.GetDimension() < 3:
        return None
    matrix = np.array(reader.GetDirection()).reshape(reader.GetDimension(), -1)[:3, :3]
    lengths = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(matrix).all() or lengths.min() == 0:
        raise DecodeError("axes without a direction")
    matrix = matrix / lengths
    if abs(matrix[:, 0] @ matrix[:, 1]) > _RIGHT_ANGLE_ERROR or abs(np.linalg.det(matrix)) < _RIGHT_ANGLE_ERROR:
        raise DecodeError("its axes are not at right angles")
    across, down, along = (_vector(axis) for axis in matrix.T)
    return across, down, along


def _vector(values: Sequence[float]) -> Vector:
    x, y, z = (float(value) + 0.0 for value in values)  # no −0
    return x, y, z


# --- formats -----------------------------------------------------------------------------------------------------


class _Format(NamedTuple):
    """How one format is read."""

    image_io: str
    find_voxels: Callable[[Path], Voxels]


def _find_nifti_voxels(path: Path) -> Voxels:
    reader = _information(path, _NIFTI.image_io)
    return nifti_voxels(path, {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()})


_NIFTI = _Format("NiftiImageIO", _find_nifti_voxels)
_NRRD = _Format("NrrdImageIO", nrrd_voxels)
_META = _Format("MetaImageIO", meta_voxels)
_FORMATS = {"nii": _NIFTI, "nrrd": _NRRD, "nhdr": _NRRD, "mha": _META, "mhd": _META}


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in dict.fromkeys(path.resolve() for path in paths):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
