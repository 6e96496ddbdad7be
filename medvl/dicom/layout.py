"""Reads from a header how its pixels lie in the file, which frames are there, and what single stored values mean.

Believes no number before it is compared with the bytes in the file.
"""

from __future__ import annotations

from sys import intern

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from medvl.dicom.elements import integer, number, text
from medvl.dicom.header import FLOAT_PIXEL_DATA, Header
from medvl.dicom.native import frame_bits
from medvl.dicom.tables import COLOURS, PALETTE_COLOR, read_palette, read_table
from medvl.errors import InputError
from medvl.records import LookupTable, PixelLayout

NO_PIXELS = "no pixel data"
MAX_FRAMES = 2**15  # of one file; ten minutes of ultrasound have 18,000, and each takes a quarter of a millisecond
MAX_FRAME_PIXELS = 2**27  # the largest mammograms have 2**25; a false header must not claim all memory
_PALETTE = [f"{colour}PaletteColorLookupTable" for colour in COLOURS]
LAYOUT_KEYWORDS = (
    "Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration BitsAllocated "
    "BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit FloatPixelPaddingValue "
    "DoubleFloatPixelPaddingValue ModalityLUTSequence VOILUTSequence "
) + " ".join(f"{name}Descriptor {name}Data Segmented{name}Data" for name in _PALETTE)
_FRAGMENT_BYTES = 8  # at least, for each frame of encapsulated pixels (PS3.5 A.4)


def read_layout(header: Header) -> tuple[PixelLayout, int]:
    """Say how the pixels lie and how many frames are really there.

    Raises InputError, with the reason, over what no pixels can look like.
    """
    dataset, pixels = header.dataset, header.pixels
    if pixels is None:
        raise InputError(NO_PIXELS)
    floating = pixels.tag in FLOAT_PIXEL_DATA
    rows, columns = _size_of(dataset)
    allocated = _bits_allocated(dataset, floating)
    bits_stored = allocated if floating else min(integer(dataset, "BitsStored") or allocated, allocated)
    layout = PixelLayout(
        transfer_syntax_uid=intern(header.transfer_syntax_uid),
        offset_bytes=pixels.offset_bytes,
        length_bytes=pixels.length_bytes,
        bits_allocated=allocated,
        bits_stored=bits_stored,
        signed=integer(dataset, "PixelRepresentation") == 1,
        samples_per_pixel=_samples_per_pixel(dataset),
        photometric=intern(text(dataset, "PhotometricInterpretation").upper()),
        frame_count=max(1, integer(dataset, "NumberOfFrames") or 1),
        planar=integer(dataset, "PlanarConfiguration") == 1,
        floating=floating,
        low_bit=_low_bit(dataset, bits_stored, allocated),
    )
    return layout, _readable_frame_count(layout, frame_bits(layout, rows, columns), header.size_bytes)


def lookup_table(dataset: Dataset, keyword: str, layout: PixelLayout) -> LookupTable | None:
    """Read a modality or VOI LUT; None without a usable one."""
    return read_table(dataset, keyword, signed=layout.signed, big_endian=_is_big(layout))


def palette(dataset: Dataset, layout: PixelLayout) -> LookupTable | None:
    """Read the luminance of each index of palette pixels; None for others, which may have one to supplement grey.

    None for a broken one, too: such a file is listed with what it is, and its frames cannot be decoded.
    """
    if layout.photometric != PALETTE_COLOR:
        return None
    return read_palette(dataset, signed=layout.signed, big_endian=_is_big(layout))


def padding_value(dataset: Dataset, layout: PixelLayout) -> float | None:
    """Read the value that marks places outside the picture."""
    if layout.floating:
        return number(dataset, f"{'Double' if layout.bits_allocated == 64 else ''}FloatPixelPaddingValue")
    return stored_value(dataset, "PixelPaddingValue", layout)


def stored_value(dataset: Dataset, keyword: str, layout: PixelLayout) -> int | None:
    """Read a stored value; some writers leave a negative one unsigned, or write one for unsigned pixels."""
    value = integer(dataset, keyword)
    if value is None:
        return None
    if layout.signed and value >= 1 << (layout.bits_allocated - 1):
        return value - (1 << layout.bits_allocated)
    return value + (1 << layout.bits_allocated) if value < 0 and not layout.signed else value


def _size_of(dataset: Dataset) -> tuple[int, int]:
    rows, columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
    if rows < 1 or columns < 1 or rows * columns > MAX_FRAME_PIXELS:
        raise InputError(f"impossible size ((0028,0010) Rows × (0028,0011) Columns = {rows} × {columns})")
    return rows, columns


def _bits_allocated(dataset: Dataset, floating: bool) -> int:
    allocated = integer(dataset, "BitsAllocated")
    if allocated is None or allocated not in ((32, 64) if floating else (1, 8, 16, 32)):
        raise InputError(f"impossible (0028,0100) Bits Allocated {allocated}")
    return allocated


def _samples_per_pixel(dataset: Dataset) -> int:
    samples = integer(dataset, "SamplesPerPixel") or 1
    if samples not in (1, 3, 4):  # 4: of retired photometric interpretations
        raise InputError(f"impossible (0028,0002) Samples per Pixel {samples}")
    return samples


def _low_bit(dataset: Dataset, bits_stored: int, allocated: int) -> int:
    """Find a value's lowest bit; only files from before 1998 have others below it (PS3.5 8.1.1)."""
    high_bit = integer(dataset, "HighBit")
    return high_bit + 1 - bits_stored if high_bit is not None and bits_stored <= high_bit < allocated else 0


def _readable_frame_count(layout: PixelLayout, bits_per_frame: int, size_bytes: int) -> int:
    """Count the frames whose bytes are in the file; of encapsulated ones only their possibility is known."""
    available = size_bytes - layout.offset_bytes
    is_native = layout.length_bytes is not None
    there = (
        min(available, layout.length_bytes or 0) * 8 // bits_per_frame if is_native else available // _FRAGMENT_BYTES
    )
    readable = min(there, layout.frame_count)
    if readable > MAX_FRAMES or (not is_native and readable < layout.frame_count):
        raise InputError(f"claims {layout.frame_count} frames in {available} bytes")
    return readable


def _is_big(layout: PixelLayout) -> bool:
    return layout.transfer_syntax_uid == ExplicitVRBigEndian
