"""Turns uncompressed pixel bytes into arrays: any bits, sign, sample order and byte order, integers and fractions.

Arithmetic on bytes; knows no files and no decoders.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.records import PixelLayout


def frame_bits(layout: PixelLayout, rows: int, columns: int) -> int:
    """Count the bits of one uncompressed frame."""
    if layout.photometric == "YBR_FULL_422":  # two pixels share their colour samples (PS3.3 C.7.6.3.1.2)
        return rows * columns * 2 * layout.bits_allocated
    return rows * columns * layout.samples_per_pixel * layout.bits_allocated


def shape_pixels(
    content: bytes, layout: PixelLayout, rows: int, columns: int, *, first_bit: int = 0, big_endian: bool = False
) -> NDArray[Any]:
    """View the bytes of one frame as its samples.

    first_bit: of the first byte, where frames of single bits do not start on a byte.
    Returns (rows, columns) or (rows, columns, samples); read-only. Of YBR_FULL_422 the luminance alone.
    """
    if layout.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
        return bits[first_bit : first_bit + rows * columns].reshape(rows, columns)
    words = np.frombuffer(content, sample_type(layout, big_endian=big_endian))
    if layout.photometric == "YBR_FULL_422":  # Y Y Cb Cr for each two pixels
        return words.reshape(-1, 4)[:, :2].reshape(rows, columns)
    if layout.samples_per_pixel == 1:
        return words.reshape(rows, columns)
    if layout.planar:
        return np.moveaxis(words.reshape(layout.samples_per_pixel, rows, columns), 0, -1)
    return words.reshape(rows, columns, layout.samples_per_pixel)


def sample_type(layout: PixelLayout, *, big_endian: bool = False) -> np.dtype[Any]:
    """Give the type of one sample in the file."""
    kind = "f" if layout.floating else "i" if layout.signed else "u"
    return np.dtype(f"{'>' if big_endian else '<'}{kind}{max(1, layout.bits_allocated // 8)}")


def swap_words(content: bytes) -> bytes:
    """Undo the byte order of a big endian OW value whose samples are smaller than a word (PS3.5 8.1.1)."""
    return np.frombuffer(content, ">u2").astype("<u2").tobytes()
