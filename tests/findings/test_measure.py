from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from medvl.findings.measure import Silhouette, find_silhouette, judge_side, measure_box
from medvl.records import Box, PictureGeometry
from tests.findings.builders import BODY, make_context, make_geometry

AIR, FAT, MUSCLE, LUNG = 20, 110, 200, 40


def draw_body(center_x: int = 130, *, table: bool = False, padding: int = 0) -> NDArray[np.uint8]:
    """An oval of muscle, 160 px wide and 100 px high, with two lungs, in a 256 px picture."""
    rows, columns = np.mgrid[:256, :256]
    grey = np.full((256, 256), AIR, np.uint8)
    grey[((columns - center_x) / 80) ** 2 + ((rows - 110) / 50) ** 2 <= 1] = MUSCLE
    for lung_x in (center_x - 35, center_x + 35):
        grey[((columns - lung_x) / 25) ** 2 + ((rows - 105) / 30) ** 2 <= 1] = LUNG
    if table:
        grey[190:200, 10:250] = FAT
    grey[(columns - 128) ** 2 + (rows - 128) ** 2 > 128**2] = padding
    return grey


@pytest.mark.parametrize("center_x", [100, 128, 150])
def test_the_midline_follows_the_body_not_the_picture(center_x: int) -> None:
    found = find_silhouette(draw_body(center_x))
    assert found is not None
    assert found.midline_px == pytest.approx(center_x, abs=1)


def test_a_table_below_the_patient_does_not_move_the_midline() -> None:
    found = find_silhouette(draw_body(150, table=True))
    assert found is not None
    assert found.midline_px == pytest.approx(150, abs=1)


def test_noise_in_the_air_does_not_move_the_midline() -> None:
    grey = draw_body(100)
    speckle = np.random.default_rng(0).random(grey.shape) < 0.01
    grey[speckle] = 255
    found = find_silhouette(grey)
    assert found is not None
    assert found.midline_px == pytest.approx(100, abs=2)


def test_three_windows_in_one_picture_show_the_same_body() -> None:
    grey = draw_body(100)
    color = np.stack([grey // 2, grey, np.zeros_like(grey)], axis=2)
    assert find_silhouette(color) == find_silhouette(grey)


def test_the_width_is_that_of_most_rows() -> None:
    grey = np.zeros((100, 100), np.uint8)
    grey[20:80, 30:70] = 200
    assert find_silhouette(grey) == Silhouette(midline_px=50.0, width_px=40.0)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_blank_picture_has_no_body(level: int) -> None:
    assert find_silhouette(np.full((64, 64), level, np.uint8)) is None


def test_a_box_is_measured_in_stored_pixels_and_millimetres() -> None:
    context = make_context()
    first, last = context.chunk.slabs[0], context.chunk.slabs[2]
    place = measure_box(Box(200, 400, 240, 420), make_geometry(-24.0), context.stack, first, last)
    assert place.box_stored_px == (99.5, 199.5, 119.5, 209.5)
    assert place.center_lps_mm == (-140.0, -45.0, -24.0)
    assert (place.width_mm, place.height_mm) == (20.0, 10.0)
    # Slices 11 and 13 lie at z = −22 and −26 mm; half of 3 mm is added at either end.
    assert place.extent_mm == (-27.5, -20.5)


def test_the_axes_are_the_sides_of_the_box() -> None:
    context = make_context()
    slab = context.chunk.slabs[0]
    place = measure_box(Box(200, 400, 220, 440), make_geometry(), context.stack, slab, slab)
    assert (place.width_mm, place.height_mm) == (10.0, 20.0)
    assert place.axes_mm == (20.0, 10.0)


def test_the_error_of_an_axis_is_a_step_of_the_grid_and_two_pixels() -> None:
    context = make_context()
    slab = context.chunk.slabs[0]
    # A picture of 448 px over 512 stored ones of 0.7 mm: 0.8 mm a picture pixel, 358.4 mm across.
    fine = PictureGeometry(448, (512 / 448, 0.0, -0.5, 0.0, 512 / 448, -0.5), None, 0.8)
    place = measure_box(Box(0, 0, 10, 10), fine, context.stack, slab, slab)
    assert place.axis_error_mm == pytest.approx(0.3584 + 2 * 0.8)


def test_an_enlarged_picture_has_no_finer_edges_than_its_slice() -> None:
    context = make_context()
    slab = context.chunk.slabs[0]
    # 1000 px over 500 stored ones of 1 mm: a step of 0.5 mm, and two stored pixels.
    place = measure_box(Box(0, 0, 10, 10), make_geometry(), context.stack, slab, slab)
    assert place.axis_error_mm == pytest.approx(0.5 + 2 * 1.0)


def test_a_slab_counts_with_all_its_slices() -> None:
    context = make_context(slabs=2, per_slab=3)
    slab = context.chunk.slabs[0]  # slices 11 to 13
    place = measure_box(Box(0, 0, 10, 10), make_geometry(), context.stack, slab, slab)
    assert place.extent_mm == (-27.5, -20.5)


def test_without_geometry_nothing_is_given_in_millimetres() -> None:
    context = make_context(plane="projection")
    slab = context.chunk.slabs[0]
    place = measure_box(Box(0, 0, 10, 10), make_geometry(plane=False), context.stack, slab, slab)
    assert (place.center_lps_mm, place.width_mm, place.height_mm, place.extent_mm) == (None, None, None, None)
    assert place.box_stored_px == (-0.5, -0.5, 4.5, 4.5)


def test_a_body_cut_off_on_one_side_has_no_midline() -> None:
    grey = np.zeros((100, 100), np.uint8)
    grey[10:90, 0:60] = 200  # a field of view of one lung: 30 px is not the middle of this body
    assert find_silhouette(grey) is None
    grey[10:40, 20:60], grey[10:40, :20] = 200, 0  # 30 of 80 rows show both flanks, from 20 to 60
    assert find_silhouette(grey) == Silhouette(40.0, 40.0)


def test_a_body_that_fills_the_picture_is_taken_as_centred() -> None:
    grey = np.zeros((100, 100), np.uint8)
    grey[10:90] = 200
    assert find_silhouette(grey) == Silhouette(50.0, 100.0)


@pytest.mark.parametrize(
    ("x1", "x2", "side"),
    [
        (200, 240, "right"),  # the picture's left is the patient's right
        (760, 800, "left"),
        (490, 520, "midline"),
        (510, 528, "midline"),  # centre 9.5 mm from the midline
        (512, 532, "left"),  # 11 mm
        (330, 670, "bilateral"),  # 170 px of the body's 800 to either side
        (350, 650, "midline"),  # 150 px: a large mass in the middle
    ],
)
def test_the_side_comes_from_the_position(x1: int, x2: int, side: str) -> None:
    assert judge_side(Box(x1, 100, x2, 120), make_geometry(), BODY, "axial") == side


def test_a_narrow_body_has_a_narrow_midline() -> None:
    head = Silhouette(midline_px=500, width_px=300)  # 3 % of 150 mm are 4.5 mm
    assert judge_side(Box(505, 0, 515, 10), make_geometry(), head, "axial") == "left"


def mirrored(geometry: PictureGeometry) -> PictureGeometry:
    return replace(geometry, lps_from_px=((-0.5, 0.0, 250.0), (0.0, 0.5, -250.0), (0.0, 0.0, 0.0)))


def test_a_mirrored_picture_swaps_the_sides() -> None:
    box = Box(200, 100, 240, 120)
    assert judge_side(box, mirrored(make_geometry()), BODY, "axial") == "left"


def test_a_sagittal_picture_tells_no_side() -> None:
    sagittal = replace(make_geometry(), lps_from_px=((0.0, 0.0, 30.0), (0.5, 0.0, -250.0), (0.0, -0.5, 250.0)))
    assert judge_side(Box(200, 100, 240, 120), sagittal, BODY, "sagittal") is None


def test_a_projection_is_read_by_the_display_convention() -> None:
    unplaced = make_geometry(plane=False)
    assert judge_side(Box(200, 100, 240, 120), unplaced, BODY, "projection") == "right"
    for plane in ("other projection", "unknown"):
        assert judge_side(Box(200, 100, 240, 120), unplaced, BODY, plane) is None


def test_without_a_body_there_is_no_side() -> None:
    assert judge_side(Box(200, 100, 240, 120), make_geometry(), None, "axial") is None
