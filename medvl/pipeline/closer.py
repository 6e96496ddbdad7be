"""Goes back to the stored pixels of each finding: what their values are, and a crop of them at full resolution.

Pictures of a reading are made smaller and turned grey; what a finding is measured and checked by must not be. Knows no
reader and no reply.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvl.dicom.frames import FrameError, load_rescaled
from medvl.dicom.grey import picture_geometry, render
from medvl.findings.density import measure_density
from medvl.findings.schema import BOX_UNITS
from medvl.pipeline.reading import FrameKey, frame_key
from medvl.pipeline.views import PlannedStudy, PlannedView
from medvl.records import Density, Finding, Frame, PictureGeometry, Slab, Stack

LOOK_PICTURES = 3  # the finding's own and its neighbours: a vessel runs on, a nodule ends
LOOK_PX = 192  # stored pixels along a crop's side: 13 cm of a usual chest
_LEAST_PARTS = 2  # of a small matrix, such as PET's, a crop takes this part at most
_AROUND = 1.5  # times the longer side of a finding's box that a crop shows at least
_ONE_THING_MM = 60.0  # a larger box, such as an effusion's, holds organs besides the finding: no kind is named for it
_MOST_PX = 4096  # of a whole picture; a header may claim pixels of any shape


class Spot(NamedTuple):
    """Where a finding was seen."""

    planned: PlannedView
    at: int  # 0-based, of the key slab in its view

    @property
    def slab(self) -> Slab:
        """The slab its box was drawn on."""
        return self.planned.view.slabs[self.at]


@dataclass(frozen=True, slots=True)
class Crop:
    """A square around one finding in neighbouring pictures of full resolution, and how large it is shown."""

    planned: PlannedView
    slabs: tuple[Slab, ...]
    whole_px: int  # side of the whole pictures
    left: int  # of the square in them; it may reach beyond their edges
    top: int
    side_px: int
    shown_px: int


def find_spot(planned: PlannedStudy, finding: Finding) -> Spot:
    """Find the view and the slab in which a finding was reported."""
    view = next(
        each
        for each in planned.views
        if each.view.name == finding.view and each.view.stack.series.uid == finding.series_uid
    )
    slabs = view.view.slabs
    key = next(i for i, slab in enumerate(slabs) if any(part.number == finding.key_slice for part in slab.slices))
    return Spot(view, key)


# --- stored values -----------------------------------------------------------------------------------------------


def with_densities(planned: PlannedStudy, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings with what the CT values inside their boxes are; each key slice is decoded once.

    None where values are no HU, the frame cannot be decoded, or the box is too small or without millimetres.
    """
    on_frame: dict[FrameKey, list[tuple[int, Frame, Stack]]] = defaultdict(list)
    for i, finding in enumerate(findings):
        stack = find_spot(planned, finding).planned.view.stack
        frame = next(each.frame for each in stack.slices if each.number == finding.key_slice)
        if frame.rescale_unit == "HU":
            on_frame[frame_key(frame)].append((i, frame, stack))
    measured: dict[int, Density | None] = {}
    for group in on_frame.values():
        try:
            values, padding = load_rescaled(group[0][1])
        except FrameError:  # said in the coverage
            continue
        measured |= {i: _density(values, padding, findings[i], frame, stack) for i, frame, stack in group}
    return tuple(replace(finding, density=measured.get(i)) for i, finding in enumerate(findings))


def _density(
    values: NDArray[np.float32], padding: NDArray[np.bool_], finding: Finding, frame: Frame, stack: Stack
) -> Density | None:
    if finding.axis_error_mm is None or frame.pixel_spacing_mm is None:
        return None
    between_rows, between_columns = frame.pixel_spacing_mm
    edge_mm = finding.axis_error_mm / 2
    margin_px = (edge_mm / between_columns, edge_mm / between_rows)
    enhanced = bool(stack.series.contrast)
    found = measure_density(values, padding, finding.box_stored_px, margin_px, enhanced=enhanced)
    one_thing = finding.long_axis_mm is not None and finding.long_axis_mm <= _ONE_THING_MM
    return found if found is None or one_thing else replace(found, hint="")


# --- crops -------------------------------------------------------------------------------------------------------


def plan_crop(spot: Spot, finding: Finding, shown_px: int) -> Crop:
    """Decide what a crop around a finding shows: three neighbouring pictures where there are as many.

    The square takes 192 stored pixels, half of a matrix that is smaller than twice that, or one and a half times the
    finding's box if that is more.
    """
    view = spot.planned.view
    geometry = picture_geometry(view.stack.turn, spot.slab.middle.frame, view.rendering.size_px)
    whole_px = _full_px(geometry)
    unit, box = whole_px / BOX_UNITS, finding.box
    longest = max(box.x2 - box.x1, box.y2 - box.y1) * unit
    side_px = max(min(LOOK_PX, whole_px // _LEAST_PARTS), math.ceil(_AROUND * longest))
    left, top = ((low + high) / 2 * unit - side_px / 2 for low, high in ((box.x1, box.x2), (box.y1, box.y2)))
    return Crop(spot.planned, _neighbours(spot), whole_px, round(left), round(top), side_px, shown_px)


def cut_out(crop: Crop) -> tuple[NDArray[np.uint8], ...]:
    """Cut the crop out of its pictures, through the window of the finding's view.

    Returns one (shown_px, shown_px) or (shown_px, shown_px, 3) for each slab; black beyond the picture's edge.
    Raises FrameError if a frame cannot be read, WindowError if no picture can be made with a window.
    """
    view = crop.planned.view
    rendering = replace(view.rendering, size_px=crop.whole_px)
    return tuple(_cut(render(slab, rendering, view.stack.turn).grey, crop) for slab in crop.slabs)


def _full_px(geometry: PictureGeometry) -> int:
    """Return the side of a picture that has at least one pixel for each stored one, along both axes."""
    a, b, _, d, e, _ = geometry.stored_from_px
    return min(round(geometry.size_px * max(math.hypot(a, b), math.hypot(d, e))), _MOST_PX)


def _neighbours(spot: Spot) -> tuple[Slab, ...]:
    slabs = spot.planned.view.slabs
    if spot.planned.view.stack.slice_spacing_mm is None:  # nothing says that they lie side by side
        return (spot.slab,)
    first = max(0, min(spot.at - LOOK_PICTURES // 2, len(slabs) - LOOK_PICTURES))
    return slabs[first : first + LOOK_PICTURES]


def _cut(grey: NDArray[np.uint8], crop: Crop) -> NDArray[np.uint8]:
    # Pillow fills what lies outside with black.
    image = Image.fromarray(grey).crop((crop.left, crop.top, crop.left + crop.side_px, crop.top + crop.side_px))
    if crop.side_px != crop.shown_px:
        image = image.resize((crop.shown_px, crop.shown_px), Image.Resampling.BICUBIC)
    return np.asarray(image)
