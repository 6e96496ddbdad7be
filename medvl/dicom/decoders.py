"""Decodes one compressed frame with permissively licensed libraries, one after the other until one succeeds.

A frame whose codestream has another size than its header says is an error with both, never a picture; nor is one whose
codestream is damaged, which decoders would make a picture of. Knows bytes and layouts; files and what the values mean
are for others.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.dicom.codestream import CodedSize, find_damage, is_complete, read_coded_size
from medvl.dicom.native import sample_type, shape_pixels
from medvl.records import PixelLayout

MAX_FRAME_BYTES = 1 << 30  # of one frame once decoded

_JPEG = "1.2.840.10008.1.2.4."
_RLE = "1.2.840.10008.1.2.5"
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # the plainest kind of image object
# pydicom's names of its plug-ins, quickest first: pylibjpeg is OpenJPEG. SimpleITK comes after all of them; of 12-bit
# JPEG (process 4) it is the only one to read any. Transfer syntaxes by number, since pydicom takes 0.1 s to import.
_PLUGINS = {
    **dict.fromkeys((f"{_JPEG}50", f"{_JPEG}51"), ("gdcm", "pillow")),  # JPEG baseline, extended
    **dict.fromkeys((f"{_JPEG}57", f"{_JPEG}70"), ("gdcm",)),  # JPEG lossless, with any or the first predictor
    **dict.fromkeys((f"{_JPEG}80", f"{_JPEG}81"), ("pyjpegls", "gdcm")),  # JPEG-LS
    **dict.fromkeys((f"{_JPEG}{each}" for each in (90, 91, 92, 93)), ("pylibjpeg", "gdcm")),  # JPEG 2000
    **dict.fromkeys((f"{_JPEG}{each}" for each in (201, 202, 203)), ("pylibjpeg",)),  # HTJ2K
    _RLE: ("pydicom",),
}
_SIMPLEITK = "SimpleITK"
_LENIENT = "pylibjpeg"  # makes a picture even of a codestream that breaks off, which the others refuse


class DecodeError(ValueError):
    """A frame that is not decoded; both sentences are fit to be shown."""

    def __init__(self, found: str, expected: str = "") -> None:
        super().__init__(found)
        self.found, self.expected = found, expected


def decode_frame(content: bytes, layout: PixelLayout, rows: int, columns: int, *, skip: int = 0) -> NDArray[Any]:
    """Decode one compressed frame with the first decoder that can, leaving out the first `skip` of them.

    Returns (rows, columns) or (rows, columns, samples), of the type that the header says.
    Raises DecodeError if the frame is too large, of another size than its header says, damaged or beyond every decoder.
    """
    _check_size(read_coded_size(content), layout, rows, columns)
    if damage := find_damage(content):
        raise DecodeError(f"its compressed pixels are damaged: {damage}")
    errors: list[Exception] = []
    for name in decoder_names(layout.transfer_syntax_uid)[skip:]:
        if name == _LENIENT and not is_complete(content):
            continue
        try:
            return decode_with(name, content, layout, rows, columns)
        except Exception as error:  # decoders raise what they like
            errors.append(error)
    syntax = _name_of(layout.transfer_syntax_uid)
    raise DecodeError(f"no decoder can read its pixels ({syntax})") from next(iter(errors), None)


def decoder_names(transfer_syntax_uid: str) -> tuple[str, ...]:
    """Name the decoders of a transfer syntax in the order in which they are asked."""
    return (*_PLUGINS.get(transfer_syntax_uid, ()), _SIMPLEITK)


def decode_with(name: str, content: bytes, layout: PixelLayout, rows: int, columns: int) -> NDArray[Any]:
    """Decode one compressed frame with one decoder.

    Raises whatever the decoder does, and ValueError if it gives another shape than the header.
    """
    if layout.bits_allocated == 1 and layout.transfer_syntax_uid == _RLE:
        return _decode_bits(name, content, layout, rows, columns)
    pixels: NDArray[Any] | None = None
    if name == _SIMPLEITK:
        pixels = _decode_with_simpleitk(content, layout, rows, columns)
    elif name == _LENIENT:
        pixels = _decode_with_openjpeg(content, layout)
    if pixels is None:
        pixels = _decode_with_pydicom(name, content, layout, rows, columns)
    if pixels.shape[:2] != (rows, columns) or pixels.ndim > 3:
        raise ValueError(f"{name} gave {pixels.shape}")
    return pixels


def _check_size(coded: CodedSize | None, layout: PixelLayout, rows: int, columns: int) -> None:
    bytes_needed = rows * columns * layout.samples_per_pixel * max(8, layout.bits_allocated) // 8
    if bytes_needed > MAX_FRAME_BYTES:
        raise DecodeError(
            f"it would take {bytes_needed} bytes once decoded", f"At most {MAX_FRAME_BYTES} bytes are decoded"
        )
    if coded is None:
        return
    claimed = f"The header says {rows} × {columns} pixels of {layout.samples_per_pixel}"
    if coded[:3] != (rows, columns, layout.samples_per_pixel):
        found = f"its compressed pixels are {coded.rows} × {coded.columns} of {coded.samples} samples"
        raise DecodeError(found, f"{claimed} samples")
    if coded.bits > max(8, layout.bits_allocated):
        raise DecodeError(
            f"its compressed pixels have {coded.bits} bits", f"The header says {layout.bits_allocated} bits allocated"
        )


def _name_of(uid: str) -> str:
    from pydicom.uid import UID

    return UID(uid).name


def _decode_with_openjpeg(content: bytes, layout: PixelLayout) -> NDArray[Any] | None:
    """Ask OpenJPEG itself: a helper that never imports pydicom starts in a third of the time.

    None for what pydicom puts right: colours, and codestreams whose values are of another type than the header says.
    """
    if layout.samples_per_pixel > 1:
        return None
    from openjpeg.utils import decode

    pixels: NDArray[Any] = decode(content)
    kind = sample_type(layout).newbyteorder("=")
    as_said = pixels.dtype.kind == kind.kind and np.can_cast(pixels.dtype, kind)
    return pixels.astype(kind, copy=False) if as_said else None


def _decode_with_pydicom(plugin: str, content: bytes, layout: PixelLayout, rows: int, columns: int) -> NDArray[Any]:
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    facts: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "number_of_frames": 1,
        "samples_per_pixel": layout.samples_per_pixel,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.signed),
        "photometric_interpretation": layout.photometric,
        "planar_configuration": int(layout.planar),
        "pixel_keyword": "PixelData",
    }
    decoder = get_decoder(layout.transfer_syntax_uid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that contradict the codestream, which decides
        return decoder.as_array(encapsulate([content]), index=0, decoding_plugin=plugin, **facts)[0]


def _decode_bits(name: str, content: bytes, layout: PixelLayout, rows: int, columns: int) -> NDArray[Any]:
    """Decode single bits, which run-length encoding knows as the bytes they are packed in (PS3.5 8.1.1, G.2)."""
    packed = replace(layout, bits_allocated=8, bits_stored=8)
    found = decode_with(name, content, packed, 1, (rows * columns + 7) // 8)
    return shape_pixels(found.tobytes(), layout, rows, columns)


def _decode_with_simpleitk(content: bytes, layout: PixelLayout, rows: int, columns: int) -> NDArray[Any]:
    """Let SimpleITK read a file of this frame alone, without anything that would make it rescale or invert."""
    if layout.transfer_syntax_uid == _RLE and layout.samples_per_pixel > 1 and layout.bits_allocated > 8:
        raise ValueError("it mixes up the bytes of such colours")  # seen in 2.5
    import SimpleITK as sitk  # takes longer to import than a whole study to scan

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        path.write_bytes(_file_of(content, layout, rows, columns))
        pixels: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    shape = pixels.shape[-3:] if layout.samples_per_pixel > 1 else pixels.shape[-2:]
    return pixels.reshape(shape).astype(sample_type(layout).newbyteorder("="), copy=False)


def _file_of(content: bytes, layout: PixelLayout, rows: int, columns: int) -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = _CAPTURE, "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, layout.samples_per_pixel
    dataset.PhotometricInterpretation = layout.photometric if layout.samples_per_pixel > 1 else "MONOCHROME2"
    if layout.samples_per_pixel > 1:
        dataset.PlanarConfiguration = int(layout.planar)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
        layout.bits_allocated,
        layout.bits_stored,
        layout.bits_stored - 1,
    )
    dataset.PixelRepresentation = int(layout.signed)
    dataset.PixelData = encapsulate([content])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(layout.transfer_syntax_uid)
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
