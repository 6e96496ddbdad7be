"""Rescale and window: stored values become grey levels. Arithmetic on arrays and numbers; knows no files or frames."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.errors import SettingsError, WindowError
from medvl.records import LookupTable, Window

Stored = NDArray[Any]
PaddingRange = tuple[float, float]  # lowest and highest stored value that marks "nothing here"

# WL and WW in HU as taught on radiopaedia.org, "Windowing (CT)".
PRESETS: Mapping[str, Window] = MappingProxyType(
    {
        name: Window(center, width, name)
        for name, center, width in (
            ("brain", 40, 80),
            ("subdural", 75, 215),
            ("stroke", 32, 8),
            ("lung", -600, 1500),
            ("mediastinum", 50, 350),
            ("vascular", 200, 600),
            ("abdomen", 50, 400),
            ("liver", 30, 150),
            ("spine", 50, 250),
            ("bone", 400, 1800),
        )
    }
)
# What one colour picture shows as red, green and blue: the three windows a chest CT is read with.
RGB = (PRESETS["lung"], PRESETS["mediastinum"], PRESETS["bone"])

_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_CENTER_AND_WIDTH = re.compile(rf"({_NUMBER})/({_NUMBER})")


def parse_window(text: str) -> Window:
    """Read a window as a user writes it: a preset's name, or "WL/WW" such as "40/80".

    Raises SettingsError for anything else, WindowError for a width below 1.
    """
    name = text.strip().lower()
    if name in PRESETS:
        return PRESETS[name]
    numbers = _CENTER_AND_WIDTH.fullmatch(name.replace("−", "-").replace(" ", ""))
    if numbers is None:
        raise SettingsError(
            f'"{text}" is not a window',
            expected=f"Known windows are {', '.join(PRESETS)}",
            todo='Name one of them, or give level and width such as "40/80"',
        )
    window = Window(float(numbers[1]), float(numbers[2]))
    check_window(window)
    return window


def parse_windows(text: str) -> tuple[Window, ...]:
    """Read the windows of one picture: three for "rgb", otherwise the one of `parse_window`."""
    return RGB if text.strip().lower() == "rgb" else (parse_window(text),)


def check_window(window: Window) -> None:
    """Raise WindowError unless a picture can be made with the window.

    Source: DICOM PS3.3 C.11.2.1.2.1 and C.11.2.1.3 (LINEAR needs a width of at least 1, the others a positive one).
    """
    smallest = 1 if window.function == "LINEAR" else np.finfo(np.float32).tiny
    if not math.isfinite(window.center) or not smallest <= window.width < math.inf:
        raise WindowError(
            f"No picture can be made with window {window.label}",
            expected="A window has a finite level and a width of at least 1",
            todo='Choose another window, such as --window "40/400"',
        )


def apply_window(values: NDArray[np.float32], window: Window) -> NDArray[np.uint8]:
    """Map rescaled values to grey levels.

    values: any shape, HU for CT; left untouched.
    Returns the same shape; 0 is black, 255 is white.
    Raises WindowError if no picture can be made with the window.
    Source: DICOM PS3.3 C.11.2.1.1 (table), C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT).
    """
    check_window(window)
    if window.table is not None:
        entries = look_up(window.table, np.rint(values)).astype(np.float32)
        return _to_grey(entries / np.float32((1 << window.table.bits) - 1))
    if window.function == "SIGMOID":
        # Beyond ±30 the curve is flat to the last grey level, and exp() would overflow.
        exponent = np.clip((window.center - values) * (4 / window.width), -30, 30)
        return _to_grey(1 / (1 + np.exp(exponent)))
    exact = window.function == "LINEAR_EXACT"
    center, width = (window.center, window.width) if exact else (window.center - 0.5, window.width - 1)
    if width == 0:  # LINEAR of width 1 is a threshold; the standard's first case takes the centre itself
        return _to_grey((values > center).astype(np.float32))
    return _to_grey((values - np.float32(center - width / 2)) / np.float32(width))


def rescale(stored: Stored, slope: float, intercept: float, table: LookupTable | None = None) -> NDArray[np.float32]:
    """Turn stored values into rescaled values; HU for CT.

    table: a modality LUT, which comes before slope and intercept (PS3.3 C.11.1).
    """
    values = (stored if table is None else look_up(table, stored)).astype(np.float32)
    values *= np.float32(slope)
    values += np.float32(intercept)
    return values


def look_up(table: LookupTable, values: NDArray[Any]) -> NDArray[np.uint16]:
    """Give each whole value its entry; values before the first or after the last take that one's (PS3.3 C.11.1.1.1).

    values: any shape. Returns the same shape.
    """
    entries = np.frombuffer(table.values, "<u2")
    return entries[np.clip(values.astype(np.int64) - table.first, 0, len(entries) - 1)]


def is_padding(stored: Stored, padding: PaddingRange) -> NDArray[np.bool_]:
    """Tell which stored values mark places outside the picture (PS3.3 C.7.5.1.1.2)."""
    lowest, highest = padding
    if lowest == highest:
        return np.asarray(stored == lowest)
    return np.asarray((stored >= lowest) & (stored <= highest))


@lru_cache(maxsize=64)  # 64 kB each; a PET series may rescale every slice differently
def grey_table(
    slope: float,
    intercept: float,
    window: Window,
    signed: bool,
    padding: PaddingRange | None,
    invert: bool,
    modality_table: LookupTable | None = None,
) -> NDArray[np.uint8]:
    """Compute the grey level of every 16-bit stored value, so that a whole picture is one look-up.

    Padding is black whichever way round the picture is; the rest is inverted after windowing for MONOCHROME1.
    Returns (65536,), read-only, indexed by the stored value's 16 bits (two's complement if signed).
    Raises WindowError if no picture can be made with the window.
    """
    stored = np.arange(65536, dtype=np.uint16).view(np.int16 if signed else np.uint16)
    table = apply_window(rescale(stored, slope, intercept, modality_table), window)
    if invert:
        np.subtract(255, table, out=table)
    if padding is not None:
        table[is_padding(stored, padding)] = 0
    table.setflags(write=False)
    return table


def percentile_window(values: NDArray[np.floating[Any]]) -> Window:
    """Choose a window for values without a fixed scale: from the 1st to the 99th percentile.

    values: any shape, padding left out. Equal or no values give a window of width 1 around them.
    """
    low, high = np.percentile(values, (1, 99)) if values.size else (0.0, 0.0)
    width = float(high - low) or 1.0
    return Window(float(low + high) / 2, width, "percentile", "LINEAR_EXACT")


def _to_grey(fraction: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Spread 0…1 over 0…255, to the nearest level. Owns its argument."""
    np.clip(fraction, 0, 1, out=fraction)
    fraction *= 255
    fraction += 0.5
    return fraction.astype(np.uint8)
