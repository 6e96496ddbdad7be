"""Turn slabs of slices into the grey square pictures a model sees, and keep the way back to the patient.

A picture is upright by radiological convention, in proportion on square pixels, and centred on black; slices of a
tilted gantry are shifted in their plane so that the stack is straight. Pixels of a few slabs are in memory at a time.
Which windows to use, and what to do about a slice that cannot be read, is for the caller to say.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvl.dicom.frames import FrameError, load_rescaled, load_stored, padding_range
from medvl.dicom.geometry import in_plane_shift_mm
from medvl.dicom.window import apply_window, grey_table
from medvl.records import DisplayTurn, Frame, Picture, PictureGeometry, Plane, Rendering, Slab, Vector, Window

Grey = NDArray[np.uint8]
GREY_VERSION = 2  # raised whenever the same slab would give another picture; part of every ledger key


class _Placement(NamedTuple):
    """Where the turned slice lies on the square canvas, in whole pixels."""

    left: int
    top: int
    width: int
    height: int


class _Margins(NamedTuple):
    """Black pixels around a slice, so that every slice of the stack has one field of view; rarely a whole number."""

    left: float
    right: float
    top: float
    bottom: float


def iter_pictures(
    slabs: Iterable[Slab], rendering: Rendering, turn: DisplayTurn, *, workers: int = 2
) -> Iterator[Picture | FrameError]:
    """Render slabs in order, on `workers` threads that stay a few slabs ahead of the caller.

    Yields one item per slab: its picture, or the error that names the frame which could not be read.
    Raises WindowError if no picture can be made with one of the rendering's windows.
    """
    waiting: deque[Future[Picture | FrameError]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="medvl-grey") as pool:
        try:
            for slab in slabs:
                waiting.append(pool.submit(_render_or_error, slab, rendering, turn))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the caller may stop early
            for future in waiting:
                future.cancel()


def render(slab: Slab, rendering: Rendering, turn: DisplayTurn) -> Picture:
    """Make one picture: decode, average the slab's slices, window, turn, and fit to the square.

    Raises FrameError if a frame cannot be read, WindowError if no picture can be made with a window.
    """
    frame = slab.middle.frame
    placement = _place(turn, frame, rendering.size_px)
    margins = _turned_margins(_margins(turn, frame), turn)
    layers = _grey_layers(slab, rendering.windows, turn)
    layers = [_fit(layer, margins, placement, rendering.size_px) for layer in layers]
    grey = layers[0] if len(layers) == 1 else np.stack(layers, axis=-1)
    return Picture(grey, picture_geometry(turn, frame, rendering.size_px))


def picture_geometry(turn: DisplayTurn, frame: Frame, size_px: int) -> PictureGeometry:
    """Compute the way back from a picture of `frame` to its stored pixels and to the patient."""
    margins, place = _margins(turn, frame), _place(turn, frame, size_px)
    columns, rows = _turned(turn, *_field(frame, margins))
    # (x, y, 1) → column and row of the turned field of view; the centre of pixel 0 lies half a pixel inside the edge.
    across = np.array((columns / place.width, 0, -place.left * columns / place.width - 0.5))
    down = np.array((0, rows / place.height, -place.top * rows / place.height - 0.5))
    if turn.flip_columns:
        across = np.array((0, 0, columns - 1)) - across
    if turn.flip_rows:
        down = np.array((0, 0, rows - 1)) - down
    stored_column, stored_row = (down, across) if turn.transpose else (across, down)
    stored_column, stored_row = stored_column - (0, 0, margins.left), stored_row - (0, 0, margins.top)
    return PictureGeometry(
        size_px=size_px,
        stored_from_px=tuple(float(value) for value in (*stored_column, *stored_row)),
        lps_from_px=_lps_from_px(frame.plane, frame.pixel_spacing_mm, stored_column, stored_row),
        mm_per_px=_mm_per_px(turn, frame, size_px),
    )


def _render_or_error(slab: Slab, rendering: Rendering, turn: DisplayTurn) -> Picture | FrameError:
    try:
        return render(slab, rendering, turn)
    except FrameError as error:
        return error


# --- values → grey -----------------------------------------------------------------------------------------------


def _grey_layers(slab: Slab, windows: tuple[Window, ...], turn: DisplayTurn) -> list[Grey]:
    """Make one turned grey layer per window, still in stored pixels."""
    frames = [item.frame for item in slab.slices]
    frame = frames[0]
    if len(frames) > 1 or frame.layout.bits_allocated > 16:  # fractions, or too many values for a table
        values, padding = _mean_values(frames, [_shift_px(turn, each, slab.middle.frame) for each in frames])
        return _window_values(values, padding, frame, windows, turn)
    stored = load_stored(frame)
    words = _turn(stored.astype(np.int16 if stored.dtype.kind == "i" else np.uint16, copy=False), turn)
    return [_table(frame, window, stored.dtype.kind == "i").take(words.view(np.uint16)) for window in windows]


def _table(frame: Frame, window: Window, signed: bool) -> Grey:
    slope, intercept = frame.rescale_slope, frame.rescale_intercept
    return grey_table(slope, intercept, window, signed, padding_range(frame), _inverted(frame), frame.modality_table)


def _mean_values(
    frames: Sequence[Frame], shifts_px: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Average rescaled values pixel by pixel, leaving padding out; also tell where every frame has padding.

    shifts_px: by how many rows and columns each frame is moved first.
    """
    total = np.zeros((frames[0].rows, frames[0].columns), np.float32)
    count = np.zeros(total.shape, np.float32)
    for frame, shift in zip(frames, shifts_px, strict=True):
        values, nothing = load_rescaled(frame)
        total += _moved(np.where(nothing, np.float32(0), values), shift)
        count += _moved(~nothing, shift)
    total /= np.maximum(count, 1)
    return total, count == 0


def _moved(pixels: NDArray[Any], shift_px: tuple[int, int]) -> NDArray[Any]:
    """Move pixels by whole rows and columns; what comes in from outside is 0."""
    if shift_px == (0, 0):
        return pixels
    moved, (down, across) = np.zeros_like(pixels), shift_px
    rows, columns = (max(0, size - abs(by)) for size, by in zip(pixels.shape, shift_px, strict=True))
    kept = pixels[max(0, -down) :, max(0, -across) :][:rows, :columns]
    moved[max(0, down) :, max(0, across) :][:rows, :columns] = kept
    return moved


def _shift_px(turn: DisplayTurn, frame: Frame, onto: Frame) -> tuple[int, int]:
    """Count the rows and columns that bring a frame of a tilted stack onto its neighbour, to half a pixel."""
    ours, theirs = _margins(turn, frame), _margins(turn, onto)
    return round(ours.top - theirs.top), round(ours.left - theirs.left)


def _window_values(
    values: NDArray[np.float32],
    padding: NDArray[np.bool_],
    frame: Frame,
    windows: tuple[Window, ...],
    turn: DisplayTurn,
) -> list[Grey]:
    layers = []
    for window in windows:
        grey = apply_window(values, window)
        if _inverted(frame):
            np.subtract(255, grey, out=grey)
        grey[padding] = 0
        layers.append(_turn(grey, turn))
    return layers


def _inverted(frame: Frame) -> bool:
    return frame.layout.photometric == "MONOCHROME1"  # low values are white (PS3.3 C.7.6.3.1.2)


# --- grey → square picture ---------------------------------------------------------------------------------------


def _turn(pixels: NDArray[Any], turn: DisplayTurn) -> NDArray[Any]:
    """Show stored pixels the radiological way round; a view, nothing is copied."""
    turned = pixels.T if turn.transpose else pixels
    return turned[:: -1 if turn.flip_rows else 1, :: -1 if turn.flip_columns else 1]


def _fit(grey: Grey, margins: _Margins, place: _Placement, size_px: int) -> Grey:
    """Add the margins, resize to the placement and centre on black, in one sampling.

    Bicubic: sharper than bilinear and quicker than Lanczos. Pillow widens the filter when shrinking, so that nothing
    aliases.
    """
    if any(margins) or grey.shape != (place.height, place.width):
        image, box = _with_margins(grey, margins)
        grey = np.asarray(image.resize((place.width, place.height), Image.Resampling.BICUBIC, box))
    if grey.shape == (size_px, size_px):
        return np.ascontiguousarray(grey)
    square = np.zeros((size_px, size_px), np.uint8)
    square[place.top : place.top + place.height, place.left : place.left + place.width] = grey
    return square


def _with_margins(grey: Grey, margins: _Margins) -> tuple[Image.Image, tuple[float, float, float, float] | None]:
    """Put black around a picture, rounded up to whole pixels, and tell the box in it that the margins reach to."""
    if not any(margins):
        return Image.fromarray(np.ascontiguousarray(grey)), None
    left, right, top, bottom = map(math.ceil, margins)
    padded = np.pad(grey, ((top, bottom), (left, right)))
    height, width = grey.shape
    box = (left - margins.left, top - margins.top, left + width + margins.right, top + height + margins.bottom)
    return Image.fromarray(padded), box


def _margins(turn: DisplayTurn, frame: Frame) -> _Margins:
    """Find what a stored slice lacks of its stack's field of view, in stored pixels."""
    field, spacing = turn.straightening, frame.pixel_spacing_mm
    if field is None or spacing is None:
        return _Margins(0, 0, 0, 0)
    across, down = in_plane_shift_mm(frame, field.origin_lps_mm)
    (left, right), (top, bottom) = field.across_mm, field.down_mm
    return _Margins(
        *((across - left) / spacing[1], (right - across) / spacing[1]),
        *((down - top) / spacing[0], (bottom - down) / spacing[0]),
    )


def _turned_margins(margins: _Margins, turn: DisplayTurn) -> _Margins:
    left, right, top, bottom = margins
    across, down = ((top, bottom), (left, right)) if turn.transpose else ((left, right), (top, bottom))
    return _Margins(*(across[:: -1 if turn.flip_columns else 1]), *(down[:: -1 if turn.flip_rows else 1]))


def _field(frame: Frame, margins: _Margins) -> tuple[float, float]:
    """Columns and rows of the stack's field of view, in stored pixels."""
    return frame.columns + margins.left + margins.right, frame.rows + margins.top + margins.bottom


def _place(turn: DisplayTurn, frame: Frame, size_px: int) -> _Placement:
    """Fit the turned field of view's millimetres into the square; its shorter side is rounded to whole pixels."""
    width_mm, height_mm = _extent(turn, frame)
    longest_mm = max(width_mm, height_mm)
    width = max(1, round(size_px * width_mm / longest_mm))
    height = max(1, round(size_px * height_mm / longest_mm))
    return _Placement((size_px - width) // 2, (size_px - height) // 2, width, height)


def _extent(turn: DisplayTurn, frame: Frame) -> tuple[float, float]:
    """Width and height of the turned field of view, in mm; in pixels when the spacing is unknown."""
    between_rows, between_columns = frame.pixel_spacing_mm or (1.0, 1.0)
    columns, rows = _field(frame, _margins(turn, frame))
    return _turned(turn, columns * between_columns, rows * between_rows)


def _turned(turn: DisplayTurn, across: float, down: float) -> tuple[float, float]:
    return (down, across) if turn.transpose else (across, down)


# --- the way back ------------------------------------------------------------------------------------------------


def _lps_from_px(
    plane: Plane | None,
    spacing_mm: tuple[float, float] | None,
    stored_column: NDArray[np.float64],
    stored_row: NDArray[np.float64],
) -> tuple[Vector, Vector, Vector] | None:
    """Compose picture → stored pixel → patient (PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1)."""
    if plane is None or spacing_mm is None:
        return None
    between_rows, between_columns = spacing_mm
    lps = np.outer(plane.row_cosines, stored_column * between_columns)
    lps += np.outer(plane.column_cosines, stored_row * between_rows)
    lps[:, 2] += plane.position_lps_mm
    x, y, z = ((float(a), float(b), float(c)) for a, b, c in lps)
    return x, y, z


def _mm_per_px(turn: DisplayTurn, frame: Frame, size_px: int) -> float | None:
    return None if frame.pixel_spacing_mm is None else max(_extent(turn, frame)) / size_px
