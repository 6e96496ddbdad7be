"""Decode one frame's stored values, or digest them as they lie in the file. Nothing is kept; nothing is rescaled.

Uncompressed pixels: one seek and one read. Compressed ones: the fragments of one frame, for `decoders`.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from medvl.dicom.decode_pool import decode_pool
from medvl.dicom.decoders import MAX_FRAME_BYTES, DecodeError
from medvl.dicom.fragments import TruncatedError, read_frame
from medvl.dicom.header import BROKEN
from medvl.dicom.native import frame_bits, shape_pixels, swap_words
from medvl.dicom.source import is_volume, open_source, source_size
from medvl.dicom.tables import LUMINANCE, PALETTE_COLOR
from medvl.dicom.volumes import read_slice
from medvl.dicom.window import PaddingRange, is_padding, look_up, rescale
from medvl.errors import PixelError
from medvl.records import Frame, PixelLayout

DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"  # Deflated Image Frame Compression; newer than pydicom's list
_INFLATED_BYTES = 1 << 20  # at a time, on the way to a frame in a deflated dataset


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

    Returns (rows, columns), integers or fractions as in the file; possibly read-only. Unused bits are cleared, colour
    and palettes are turned into luminance, fractions that are none into padding; MONOCHROME1 is left as stored.
    Raises FrameError if the pixels are truncated, too large or beyond every decoder.
    """
    layout = frame.layout
    _check_claims(frame)
    try:
        pixels = _luminance(_samples(frame), layout)
    except DecodeError as error:
        raise FrameError(frame, error.found, expected=error.expected) from error
    except ValueError as error:
        raise FrameError(frame, "its pixels cannot have the size that its header says") from error
    if frame.palette is not None:
        return look_up(frame.palette, pixels)
    if layout.floating:
        return _without_nan(pixels, frame)
    if layout.length_bytes is None and layout.transfer_syntax_uid != DEFLATED_FRAMES:
        return pixels
    return _clear_unused_bits(pixels, frame)


def load_rescaled(frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Decode one frame and turn its stored values into rescaled ones.

    Returns (rows, columns) of values, HU for CT, and where they are padding, whose values mean nothing.
    Raises FrameError as `load_stored` does.
    """
    stored, padding = load_stored(frame), padding_range(frame)
    nothing = np.zeros(stored.shape, np.bool_) if padding is None else is_padding(stored, padding)
    return rescale(stored, frame.rescale_slope, frame.rescale_intercept, frame.modality_table), nothing


def padding_range(frame: Frame) -> PaddingRange | None:
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
                *_rare_facts(frame),
            )
        ).encode()
    )
    return digest.hexdigest()


def _rare_facts(frame: Frame) -> tuple[object, ...]:
    """List what few files have and what changes the meaning of their pixels."""
    layout = frame.layout
    rare = (layout.planar, layout.floating, layout.low_bit, frame.palette, frame.modality_table)
    return rare if any(rare) else ()


# --- bytes as they lie in the file -------------------------------------------------------------------------------


def _stored_bytes(frame: Frame) -> bytes:
    if is_volume(frame.source):
        return _volume_bytes(frame)
    with _open(frame) as file:
        try:
            if frame.layout.length_bytes is not None:
                return _native_bytes(file, frame, frame.layout.length_bytes)
            layout, size_bytes = frame.layout, source_size(frame.source)
            return read_frame(file, layout.offset_bytes, size_bytes, frame.index, layout.frame_count)
        except TruncatedError as error:
            expected = f"The compressed frame takes {error.claimed_bytes} bytes"
            raise FrameError(frame, f"its pixels end after {error.there_bytes} bytes", expected=expected) from error
        except BROKEN as error:
            raise FrameError(frame, "its pixel data are broken") from error


def _volume_bytes(frame: Frame) -> bytes:
    try:
        return read_slice(frame)
    except DecodeError as error:
        raise FrameError(frame, error.found, expected=error.expected) from error


def _open(frame: Frame) -> IO[bytes]:
    try:
        return open_source(frame.source)
    except BROKEN as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise FrameError(frame, f"the file cannot be opened ({reason})", todo="Check the folder") from error


def _native_bytes(file: IO[bytes], frame: Frame, length_bytes: int) -> bytes:
    wanted = _span(frame)
    swapped = _has_swapped_words(file, frame.layout)
    start, end = (wanted[0] // 2 * 2, (wanted[1] + 1) // 2 * 2) if swapped else wanted  # words are swapped whole
    offset = frame.layout.offset_bytes
    if frame.layout.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        content = _inflate(file, offset + start, end - start)
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
    return swap_words(content)[wanted[0] - start : wanted[1] - start] if swapped else content


def _span(frame: Frame) -> tuple[int, int]:
    """First byte of a native frame within the pixel data and the one after its last; bits may share bytes."""
    bits = frame_bits(frame.layout, frame.rows, frame.columns)
    return frame.index * bits // 8, ((frame.index + 1) * bits + 7) // 8


def _has_swapped_words(file: IO[bytes], layout: PixelLayout) -> bool:
    """Tell whether samples of a byte or less lie in big endian words: so does an OW value (PS3.5 8.1.1, A.3)."""
    if layout.transfer_syntax_uid != ExplicitVRBigEndian or layout.bits_allocated > 8:
        return False
    file.seek(layout.offset_bytes - 8)  # its VR, two reserved bytes and its length stand before the value
    return file.read(2) == b"OW"


def _inflate(file: IO[bytes], start: int, size_bytes: int) -> bytes:
    """Inflate a part of a deflated dataset (PS3.5 A.5), holding no more of it than asked for."""
    file.seek(140)
    meta_length = int.from_bytes(file.read(4), "little")  # (0002,0000) File Meta Information Group Length
    file.seek(144 + meta_length)
    inflater, kept, place = zlib.decompressobj(-zlib.MAX_WBITS), bytearray(), 0
    waiting = file.read(_INFLATED_BYTES)
    while waiting and len(kept) < size_bytes:
        part = inflater.decompress(waiting, _INFLATED_BYTES)
        kept += part[max(0, start - place) :]
        place += len(part)
        waiting = inflater.unconsumed_tail or file.read(_INFLATED_BYTES)
    return bytes(kept[:size_bytes])


# --- bytes → values ----------------------------------------------------------------------------------------------


def _check_claims(frame: Frame) -> None:
    if frame.layout.photometric == PALETTE_COLOR and frame.palette is None:
        raise FrameError(frame, "no usable palette (0028,1101) Red Palette Color Lookup Table Descriptor and its like")
    needed = frame_bits(frame.layout, frame.rows, frame.columns) // 8
    if needed > MAX_FRAME_BYTES:
        expected = f"At most {MAX_FRAME_BYTES} bytes are decoded"
        raise FrameError(frame, f"it would take {needed} bytes once decoded", expected=expected)


def _samples(frame: Frame) -> NDArray[Any]:
    """Decode one frame's samples: (rows, columns) or (rows, columns, samples), in the machine's byte order."""
    content, layout = _stored_bytes(frame), frame.layout
    first_bit = frame.index * frame_bits(layout, frame.rows, frame.columns) % 8
    if layout.transfer_syntax_uid == DEFLATED_FRAMES:
        content, first_bit = _inflate_frame(content, frame), 0
    elif layout.length_bytes is None:
        return decode_pool().decode(content, layout, frame.rows, frame.columns)
    big_endian = layout.transfer_syntax_uid == ExplicitVRBigEndian
    pixels = shape_pixels(content, layout, frame.rows, frame.columns, first_bit=first_bit, big_endian=big_endian)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _inflate_frame(content: bytes, frame: Frame) -> bytes:
    """Inflate a frame that was deflated by itself (PS3.5 A.4.13), and no more of it than its header says."""
    needed = (frame_bits(frame.layout, frame.rows, frame.columns) + 7) // 8
    try:
        pixels = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, needed)
    except zlib.error as error:
        raise DecodeError("its deflated pixels are broken") from error
    if len(pixels) < needed:
        raise DecodeError(f"its pixels end after {len(pixels)} bytes", f"The header says {needed} bytes")
    return pixels


def _luminance(pixels: NDArray[Any], layout: PixelLayout) -> NDArray[Any]:
    if pixels.ndim < 3:
        return pixels
    if layout.length_bytes is not None and layout.photometric.startswith("YBR"):
        return np.ascontiguousarray(pixels[..., 0])  # decoders have turned compressed colours into RGB
    weights = np.asarray(LUMINANCE, np.float64 if pixels.dtype.itemsize > 2 else np.float32)
    return np.asarray(np.rint(pixels[..., :3] @ weights).astype(pixels.dtype))


def _without_nan(pixels: NDArray[Any], frame: Frame) -> NDArray[Any]:
    """Replace fractions that are no number by the padding value, or else by the lowest value there."""
    finite = np.isfinite(pixels)
    if finite.all():
        return pixels
    lowest = pixels[finite].min() if finite.any() else 0.0
    return np.asarray(np.where(finite, pixels, lowest if frame.padding_value is None else frame.padding_value))


def _clear_unused_bits(words: NDArray[Any], frame: Frame) -> NDArray[Any]:
    """Keep the Bits Stored (0028,0101) bits; older files carry overlays above or below them."""
    layout = frame.layout
    unused = layout.bits_allocated - layout.bits_stored - layout.low_bit
    if layout.bits_allocated < 8 or unused + layout.low_bit <= 0:
        return words
    # Shifting back is arithmetic for signed types: it extends the sign.
    stored = (words << words.dtype.type(unused)) >> words.dtype.type(unused + layout.low_bit)
    padding = padding_range(frame)
    if padding is not None:  # left as it is: without its high bits it may look like tissue
        outside = is_padding(words, padding)
        stored[outside] = words[outside]
    return np.asarray(stored)
