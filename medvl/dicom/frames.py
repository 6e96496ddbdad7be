"""Decode one frame's stored values, or digest them as they lie in the file. Nothing is kept; nothing is rescaled.

Little endian, deflated or not: one seek and one read. Everything else: pydicom's decoders, then SimpleITK's.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medvl.dicom.header import BROKEN
from medvl.dicom.source import open_source
from medvl.errors import PixelError
from medvl.records import Frame, PixelLayout, Source

_LITTLE_ENDIAN = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian}
MAX_VOLUME_BYTES = 1 << 30  # what SimpleITK may allocate for one file
# ITU-R BT.601, the luminance of the YBR photometric interpretations (PS3.3 C.7.6.3.1.2).
_LUMINANCE = np.array((0.299, 0.587, 0.114), np.float32)


class FrameError(PixelError):
    """A frame that cannot be turned into pixels, and which."""

    def __init__(self, frame: Frame, found: str, *, expected: str = "", todo: str = "") -> None:
        """frame: the one at fault. Its file's name opens the message; `reason` goes without, for records."""
        place = frame.source.name if frame.layout.frame_count == 1 else f"{frame.source.name}, frame {frame.index + 1}"
        super().__init__(f"{place}: {found}", expected=expected, todo=todo or "Send or export the file again")
        self.frame = frame
        self.reason = found


def load_stored(frame: Frame) -> NDArray[Any]:
    """Decode the stored values of one frame.

    Returns (rows, columns), signed or unsigned integers as in the file; possibly read-only.
    Unused high bits are cleared, colour is turned into its luminance, MONOCHROME1 is left as stored.
    Raises FrameError if the pixels are truncated or beyond every decoder.
    """
    if not _is_plain(frame.layout):
        return _decode(frame)
    kind = "i" if frame.layout.signed else "u"
    words = np.frombuffer(_stored_bytes(frame), f"<{kind}{frame.layout.bits_allocated // 8}")
    return _clear_unused_bits(words.reshape(frame.rows, frame.columns), frame)


def padding_range(frame: Frame) -> tuple[int, int] | None:
    """Give the lowest and highest stored value that mean padding, None if the header names none.

    The limit may lie on either side of the value (PS3.3 C.7.5.1.1.2).
    """
    if frame.padding_value is None:
        return None
    limit = frame.padding_value if frame.padding_limit is None else frame.padding_limit
    return min(frame.padding_value, limit), max(frame.padding_value, limit)


def pixel_digest(frame: Frame) -> str:
    """Digest a frame's pixel bytes as they lie in the file, undecoded, with the header facts that give them meaning.

    Equal digests mean equal pictures in the same place of the patient; names, dates and UIDs play no part.
    Returns 64 hexadecimal digits.
    Raises FrameError if the pixels are truncated or cannot be found.
    """
    digest = hashlib.sha256(_stored_bytes(frame))
    layout = frame.layout
    digest.update(
        repr(
            (
                *(frame.rows, frame.columns, layout.transfer_syntax_uid, layout.photometric, layout.samples_per_pixel),
                *(layout.bits_allocated, layout.bits_stored, layout.signed, padding_range(frame)),
                *(frame.rescale_slope, frame.rescale_intercept, frame.rescale_unit),
                *(frame.pixel_spacing_mm, frame.slice_thickness_mm, frame.plane, frame.patient_orientation),
            )
        ).encode()
    )
    return digest.hexdigest()


def _is_plain(layout: PixelLayout) -> bool:
    little_endian = layout.transfer_syntax_uid in _LITTLE_ENDIAN and layout.length_bytes is not None
    grey = layout.samples_per_pixel == 1 and layout.photometric in ("MONOCHROME1", "MONOCHROME2")
    return little_endian and grey and layout.bits_allocated in (8, 16)


def _frame_bits(frame: Frame) -> int:
    return frame.rows * frame.columns * frame.layout.samples_per_pixel * frame.layout.bits_allocated


# --- bytes as they lie in the file -------------------------------------------------------------------------------


def _stored_bytes(frame: Frame) -> bytes:
    with _open(frame) as file:
        try:
            if frame.layout.length_bytes is None:
                return _encapsulated_bytes(file, frame)
            return _native_bytes(file, frame, frame.layout.length_bytes)
        except BROKEN as error:
            raise FrameError(frame, "its pixel data are broken") from error


def _open(frame: Frame) -> IO[bytes]:
    try:
        return open_source(frame.source)
    except BROKEN as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise FrameError(frame, f"the file cannot be opened ({reason})", todo="Check the folder") from error


def _native_bytes(file: IO[bytes], frame: Frame, length_bytes: int) -> bytes:
    bits = _frame_bits(frame)
    if frame.layout.photometric == "YBR_FULL_422":  # two pixels share their colour samples (PS3.3 C.7.6.3.1.2)
        bits = bits * 2 // 3
    start, end = frame.index * bits // 8, ((frame.index + 1) * bits + 7) // 8
    offset = frame.layout.offset_bytes
    if frame.layout.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        content = _inflate(file, offset + end)[offset + start :]
    else:
        file.seek(offset + start)
        content = file.read(end - start)
    available = min(len(content), max(0, length_bytes - start))
    if available < end - start:
        raise FrameError(
            frame,
            f"its pixels end after {available} bytes",
            expected=f"{frame.rows} × {frame.columns} pixels take {end - start} bytes",
        )
    return content


def _inflate(file: IO[bytes], size_bytes: int) -> bytes:
    """Inflate the start of a deflated dataset (PS3.5 A.5), and no more of it than asked for."""
    file.seek(140)
    meta_length = int.from_bytes(file.read(4), "little")  # (0002,0000) File Meta Information Group Length
    file.seek(144 + meta_length)
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), size_bytes)


def _encapsulated_bytes(file: IO[bytes], frame: Frame) -> bytes:
    file.seek(frame.layout.offset_bytes)
    return bytes(get_frame(cast(BinaryIO, file), frame.index, number_of_frames=frame.layout.frame_count))


def _clear_unused_bits(words: NDArray[Any], frame: Frame) -> NDArray[Any]:
    """Keep the low Bits Stored (0028,0101) bits; older files carry overlays above them."""
    unused = frame.layout.bits_allocated - frame.layout.bits_stored
    if unused <= 0:
        return words
    shift = words.dtype.type(unused)
    stored = (words << shift) >> shift  # arithmetic for signed types: extends the sign
    padding = padding_range(frame)
    if padding is not None:  # left as it is: without its high bits it may look like tissue
        outside = (words >= padding[0]) & (words <= padding[1])
        stored[outside] = words[outside]
    return np.asarray(stored)


# --- decoders ----------------------------------------------------------------------------------------------------


def _decode(frame: Frame) -> NDArray[Any]:
    errors = []
    for decoder in (_decode_with_pydicom, _decode_with_simpleitk):
        try:
            pixels = decoder(frame).reshape(frame.rows, frame.columns)
            return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        except FrameError:
            raise
        except Exception as error:  # decoders raise what they like
            errors.append(error)
    raise FrameError(
        frame,
        f"neither pydicom nor SimpleITK can decode its pixels ({UID(frame.layout.transfer_syntax_uid).name})",
    ) from errors[0]


def _decode_with_pydicom(frame: Frame) -> NDArray[Any]:
    header = Dataset()
    with _open(frame) as file:
        pixels = pixel_array(
            cast(BinaryIO, file),
            index=frame.index,
            ds_out=header,
            transfer_syntax_uid=frame.layout.transfer_syntax_uid,  # files without meta information do not say
        )
    if frame.layout.photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, header)
    return _luminance(pixels)


def _decode_with_simpleitk(frame: Frame) -> NDArray[Any]:
    import SimpleITK as sitk  # takes longer to import than a whole study to scan

    # It decodes every frame, and allocates what the header claims before it looks at the pixels.
    if _frame_bits(frame) // 8 * frame.layout.frame_count > MAX_VOLUME_BYTES:
        raise ValueError("too large")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with _path_on_disk(frame.source) as path:
        image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    pixels = sitk.GetArrayFromImage(image)
    pixels = _luminance(pixels[frame.index] if pixels.ndim > 2 else pixels)
    # SimpleITK has rescaled the values; the way back is exact for whole numbers.
    stored = np.rint((pixels.astype(np.float64) - frame.rescale_intercept) / frame.rescale_slope)
    if frame.layout.photometric == "MONOCHROME1":  # ... and turned it into MONOCHROME2
        stored = (-1 if frame.layout.signed else (1 << frame.layout.bits_stored) - 1) - stored
    kind = "i" if frame.layout.signed else "u"
    return stored.astype(f"{kind}{max(1, frame.layout.bits_allocated // 8)}")


@contextmanager
def _path_on_disk(source: Source) -> Iterator[Path]:
    """Lend a path to a library that cannot read from a zip."""
    if source.member is None:
        yield source.path
        return
    with TemporaryDirectory() as folder, open_source(source) as member:
        path = Path(folder) / "image.dcm"
        path.write_bytes(member.read())
        yield path


def _luminance(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.ndim < 3:
        return pixels
    return np.rint(pixels[..., :3] @ _LUMINANCE).astype(pixels.dtype)
