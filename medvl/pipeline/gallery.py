"""Makes the viewer's pictures: one compressed grey copy of every slice of the stacks read, turned for display.

A copy keeps 8 bits of each value, finely where soft tissue lies and coarsely elsewhere, so that the page can show any
window. A few slices are in memory at a time. Pictures already there for the same pixels are not made again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvl.dicom.frames import FrameError
from medvl.dicom.grey import GREY_VERSION, iter_pictures, picture_geometry
from medvl.dicom.window import PRESETS
from medvl.pipeline.reading import FrameKey, frame_key
from medvl.pipeline.views import PlannedStudy
from medvl.records import Frame, LookupTable, Rendering, Slab, Stack, Window
from medvl.report.images import encode_image
from medvl.report.viewer import Gallery, GalleryWindow, slices_digest, write_galleries

_VERSION = 1  # raised whenever the same slices would give other pictures
_QUALITY = 80  # JPEG: 16 MB for 300 slices of a noisy chest CT, 0.6 ms each; WebP takes 10 ms for two thirds of that
_SIDE_PX = 512
_RADIOGRAPH_SIDE_PX = 1600  # where there are but a few pictures
_FEW_SLICES = 4
_PIXELS_IN_ALL = 1000 * _SIDE_PX**2  # what a browser keeps unpacked of one stack, a byte each
_REACH = 1.5  # how much wider than its windows a stack without HU is kept
# HU and the grey level that stands for it, straight lines between: one level is 15 HU in lung, 4 in fat,
# 1.5 in fluid and soft tissue, 6 in calcified tissue, 25 in bone.
_HU_LEVELS = ((-1024, 8), (-160, 60), (-20, 90), (100, 170), (300, 204), (1300, 244), (3071, 255))
_LEVELS = np.arange(256)
_NOTHING_HU = -2048  # what the lowest levels stand for: below any CT number, so black in every window


def update_galleries(folder: Path, planned: PlannedStudy, digests: Mapping[FrameKey, str]) -> None:
    """Bring the viewer's pictures in a study's folder up to date with the stacks that are read.

    digests: of each frame's pixels; they name the files, so that finished ones are known again without a look at them.
    Raises OutputError.
    """
    stacks: dict[str, tuple[Stack, Window]] = {}
    galleries: list[Gallery] = []
    for stack in {id(view.view.stack): view.view.stack for view in planned.views}.values():
        views = [view.view for view in planned.views if view.view.stack is stack]
        windows = tuple({window.label: window for view in views for window in view.rendering.windows}.values())
        window, values = _packing(stack, windows)
        gallery = _gallery(stack, tuple(view.name for view in views), windows, values, digests)
        stacks[gallery.name] = stack, window
        galleries.append(gallery)
    write_galleries(folder, galleries, lambda gallery: _pictures(gallery, *stacks[gallery.name]))


def _gallery(
    stack: Stack,
    views: tuple[str, ...],
    windows: tuple[Window, ...],
    values: tuple[float, ...],
    digests: Mapping[FrameKey, str],
) -> Gallery:
    frames = [each.frame for each in stack.slices]
    side_px = _side_px(frames)
    pixels = [digests[frame_key(frame)] for frame in frames]
    facts = repr((_VERSION, GREY_VERSION, _QUALITY, side_px, stack.series.uid, stack.turn, values, pixels))
    return Gallery(
        name=f"stack-{hashlib.sha256(facts.encode()).hexdigest()[:16]}",
        slices=slices_digest((frame.sop_instance_uid, frame.index) for frame in frames),
        series_uid=stack.series.uid,
        views=views,
        plane=stack.plane,
        slice_count=len(frames),
        side_px=side_px,
        mm_per_px=picture_geometry(stack.turn, frames[0], side_px).mm_per_px,
        positions_mm=tuple(round(each.distance_mm, 3) for each in stack.slices) if frames[0].plane else (),
        spacing_mm=stack.slice_spacing_mm,
        values=values,
        inverted=frames[0].layout.photometric == "MONOCHROME1",
        unit=frames[0].rescale_unit,
        windows=_offered(frames[0], windows),
    )


def _side_px(frames: list[Frame]) -> int:
    most = _RADIOGRAPH_SIDE_PX if len(frames) <= _FEW_SLICES else _SIDE_PX
    stored = max(frames[0].rows, frames[0].columns)
    return max(1, min(stored, most, math.isqrt(_PIXELS_IN_ALL // len(frames))))


def _offered(frame: Frame, windows: tuple[Window, ...]) -> tuple[GalleryWindow, ...]:
    """List the windows the stack is read with first, then the presets, which speak of HU."""
    presets = tuple(PRESETS.values()) if frame.rescale_unit == "HU" else ()
    unique = {(window.center, window.width): window for window in (*presets, *windows)}
    first = [(window.center, window.width) for window in windows]
    ordered = sorted(unique, key=lambda key: first.index(key) if key in first else len(first))
    return tuple(GalleryWindow(unique[key].name, *key) for key in ordered)


def _packing(stack: Stack, windows: tuple[Window, ...]) -> tuple[Window, tuple[float, ...]]:
    """Return the window that packs a stack's values into 8 bits, and what each grey level then stands for."""
    if stack.slices[0].frame.rescale_unit == "HU":
        values, levels = zip(*_HU_LEVELS, strict=True)
        entries = np.rint(np.interp(np.arange(values[0], values[-1] + 1), values, levels)).astype("<u2")
        table = LookupTable(values[0] - 1, 8, b"\0\0" + entries.tobytes())
        window = Window((values[0] + values[-1]) / 2, values[-1] - values[0], "packed", table=table)
        known = np.interp(_LEVELS, levels, values)
        return window, _rounded(np.where(levels[0] / 2 > _LEVELS, _NOTHING_HU, known))
    low = min(window.center - window.width / 2 for window in windows)
    high = max(window.center + window.width / 2 for window in windows)
    center, width = (low + high) / 2, (high - low) * _REACH
    return Window(center, width, "packed", "LINEAR_EXACT"), _rounded(center + width * (_LEVELS / 255 - 0.5))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)


def _pictures(gallery: Gallery, stack: Stack, window: Window) -> Iterator[bytes]:
    single = (Slab(each.number, (each,)) for each in stack.slices)
    for picture in iter_pictures(single, Rendering((window,), gallery.side_px), stack.turn):
        yield b"" if isinstance(picture, FrameError) else encode_image(picture.grey, "jpeg", quality=_QUALITY)
