"""Slices of a tilted gantry become a straight stack: what runs along the normal stays in one place of every picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvl.dicom.geometry import slabs, stack_series
from medvl.dicom.grey import picture_geometry, render
from medvl.dicom.scan import scan
from medvl.records import Rendering, Stack, Window
from tests.builders import AXIAL, write_series

AS_IT_IS = Rendering((Window(127.5, 255, function="LINEAR_EXACT"),), 128)
SIDE, STEP_MM, COUNT = 64, 10.0, 5
# A gantry tilted by 20°: going 10 mm up along z, slices drift by 10 × sin 20° = 3.42 mm along their columns.
TILT, DRIFT_MM = 20.0, 3.420


def tilted_stack(folder: Path, pixels, *, degrees: float = TILT, iop=AXIAL) -> Stack:
    write_series(
        folder,
        count=COUNT,
        rows=SIDE,
        columns=SIDE,
        iop=iop,
        slice_step_mm=STEP_MM,
        tilt_degrees=degrees,
        spacing_mm=(1.0, 1.0),
        thickness_mm=STEP_MM,
        pixels=pixels,
        slope=1.0,
        intercept=0.0,
    )
    (stack,), unread = stack_series(scan([folder]).studies[0].series[0])
    assert unread == ()
    return stack


def a_rod(index: int) -> np.ndarray:
    """A square of 4 × 4 mm that follows the normal: each slice's picture of it lies 3.42 rows earlier."""
    stored = np.zeros((SIDE, SIDE), np.int16)
    row = round(40 + DRIFT_MM * (index - 2))  # tilting about the left-right axis leans rows to +z
    stored[row - 2 : row + 2, 20:24] = 200
    return stored


def centres(stack: Stack, slab_mm: float | None = None) -> np.ndarray:
    """x and y of the brightness in each picture."""
    found = []
    for slab in slabs(stack, slab_mm):
        grey = render(slab, AS_IT_IS, stack.turn).grey.astype(float)
        y, x = np.indices(grey.shape) + 0.5
        found.append(((x * grey).sum() / grey.sum(), (y * grey).sum() / grey.sum()))
    return np.array(found)


def rod_of(stack: Stack) -> np.ndarray:
    """Patient position of the rod's centre in each slice, by the header alone."""
    places = []
    for each in stack.slices:
        plane = each.frame.plane
        assert plane is not None
        drawn = a_rod((each.frame.instance_number or 0) - 1)
        row, column = np.argwhere(drawn).mean(axis=0)
        place = np.add(plane.position_lps_mm, np.multiply(plane.row_cosines, column))
        places.append(place + np.multiply(plane.column_cosines, row))
    return np.array(places)


def test_what_runs_along_the_normal_stays_in_place(tmp_path):
    stack = tilted_stack(tmp_path, lambda index: a_rod(4 - index))
    found = centres(stack)
    moved = np.ptp(found, axis=0)
    assert moved[0] == pytest.approx(0, abs=0.1)
    # One stored pixel is 128 / (64 + 4 × 3.42) = 1.65 px; drawing the rod rounds it to half a pixel.
    assert moved[1] < 1.65 * 1.05


def test_pictures_lead_back_to_where_the_header_says(tmp_path):
    stack = tilted_stack(tmp_path, a_rod)
    geometries = [picture_geometry(stack.turn, each.frame, AS_IT_IS.size_px) for each in stack.slices]
    found = [np.array(g.lps_from_px) @ (x, y, 1) for g, (x, y) in zip(geometries, centres(stack), strict=True)]
    assert np.linalg.norm(found - rod_of(stack), axis=1).max() < 0.1  # mm


def test_every_picture_of_a_stack_has_one_scale_that_holds_all_slices(tmp_path):
    stack = tilted_stack(tmp_path, np.full((SIDE, SIDE), 200, np.int16))
    geometries = [picture_geometry(stack.turn, each.frame, AS_IT_IS.size_px) for each in stack.slices]
    # 64 rows of 1 mm and four drifts of 3.42 mm fit into 128 px.
    assert {round(geometry.mm_per_px or 0, 4) for geometry in geometries} == {round((64 + 4 * DRIFT_MM) / 128, 4)}
    for slab in slabs(stack, None):  # nothing is cut off: all of the 64 × 64 mm are there
        area_px = (render(slab, AS_IT_IS, stack.turn).grey / 200).sum()
        assert area_px * (geometries[0].mm_per_px or 0) ** 2 == pytest.approx(64 * 64, rel=0.02)


@pytest.mark.parametrize("degrees", [TILT, -TILT])
@pytest.mark.parametrize("iop", [AXIAL, (-1, 0, 0, 0, -1, 0), (0, 1, 0, -1, 0, 0)], ids=["as is", "prone", "turned"])
def test_any_tilt_and_turn_gives_patient_positions_that_agree_with_the_header(tmp_path, degrees, iop):
    stack = tilted_stack(tmp_path, a_rod, degrees=degrees, iop=iop)
    x, y = centres(stack).T
    geometries = [picture_geometry(stack.turn, each.frame, AS_IT_IS.size_px) for each in stack.slices]
    found = [np.array(g.lps_from_px) @ place for g, place in zip(geometries, np.c_[x, y, np.ones(COUNT)], strict=True)]
    assert np.linalg.norm(found - rod_of(stack), axis=1).max() < 0.1


def test_averaged_slices_are_moved_onto_each_other_first(tmp_path):
    stack = tilted_stack(tmp_path, lambda index: a_rod(4 - index))
    (slab,) = slabs(stack, COUNT * STEP_MM)
    grey = render(slab, AS_IT_IS, stack.turn).grey
    # The rod is 4 rows high and rounding moves it by half a row at most; unmoved slices would leave 2/5 of 200 at most.
    assert grey.max() > 190
    assert (grey > 100).sum() == pytest.approx((4 * 128 / (64 + 4 * DRIFT_MM)) ** 2, rel=0.3)
