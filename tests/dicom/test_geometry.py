from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvl.dicom.geometry import auto_slab_mm, slabs, stack_series
from medvl.dicom.scan import scan
from medvl.records import DisplayTurn, Frame, Gap, PixelLayout, Plane, Series, Source, Stack
from tests.builders import AXIAL, CORONAL, SAGITTAL, write_series

LAYOUT = PixelLayout("1.2.840.10008.1.2.1", 0, 40, 16, 16, True, 1, "MONOCHROME2", 1)
ROWS, COLUMNS = 4, 5
SPACING_MM = (2.0, 1.0)  # between rows, between columns


def a_frame(position, iop, *, number=1, rows=ROWS, columns=COLUMNS, spacing=SPACING_MM):
    plane = None if position is None else Plane(tuple(position), tuple(iop[:3]), tuple(iop[3:]))
    name = f"file{number}"
    return Frame(Source(Path(name), name), 0, name, "", rows, columns, LAYOUT, plane, spacing, instance_number=number)


def a_series(frames, modality="CT"):
    return Series("1.2.3", 1, modality, "", "", tuple(frames))


def stack_of_files(folder, **options) -> tuple[Stack, tuple]:
    write_series(folder, **options)
    stacks, unread = stack_series(scan([folder]).studies[0].series[0])
    assert len(stacks) == 1
    return stacks[0], unread


def axial_stack(*distances_mm, **frame) -> Stack:
    frames = [a_frame((0, 0, z), AXIAL, number=n, **frame) for n, z in enumerate(distances_mm, start=1)]
    return stack_series(a_series(frames))[0][0]


# --- order -------------------------------------------------------------------------------------------------------


def test_axial_slices_run_from_the_head_down_whatever_files_and_numbers_say(tmp_path):
    stack, _ = stack_of_files(tmp_path, count=4, position=(0, 0, 10.0), instance_number=lambda index: index + 1)
    assert stack.plane == "axial"
    assert [one.distance_mm for one in stack.slices] == [17.5, 15.0, 12.5, 10.0]  # z in mm
    assert [one.number for one in stack.slices] == [1, 2, 3, 4]
    assert stack.slice_spacing_mm == 2.5


def test_coronal_slices_run_from_anterior_and_are_labelled_with_y(tmp_path):
    # CORONAL's row × column is +y, so the files step to posterior.
    stack, _ = stack_of_files(tmp_path, count=3, iop=CORONAL, position=(0, -30.0, 0), slice_step_mm=4.0)
    assert stack.plane == "coronal"
    assert [one.distance_mm for one in stack.slices] == [-30.0, -26.0, -22.0]


def test_sagittal_slices_run_from_the_right_and_are_labelled_with_x(tmp_path):
    # SAGITTAL's row × column is −x, so the files step to the right: the last one is the first to read.
    stack, _ = stack_of_files(tmp_path, count=3, iop=SAGITTAL, position=(8.0, 0, 0), slice_step_mm=4.0)
    assert stack.plane == "sagittal"
    assert [one.distance_mm for one in stack.slices] == [0.0, 4.0, 8.0]


def test_frames_without_position_keep_their_instance_numbers_order(tmp_path):
    stack, _ = stack_of_files(tmp_path, count=3, position=None, instance_number=lambda index: 3 - index)
    assert [one.frame.instance_number for one in stack.slices] == [1, 2, 3]
    assert stack.slice_spacing_mm is None


@pytest.mark.parametrize(("degrees", "plane"), [(29, "axial"), (31, "oblique")])
def test_a_plane_keeps_its_name_up_to_30_degrees_off_its_axis(degrees, plane):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    stack = stack_series(a_series([a_frame((0, 0, 0), (1, 0, 0, 0, c, s))]))[0][0]
    assert stack.plane == plane


# --- display -----------------------------------------------------------------------------------------------------

VIEWS = {  # plane: to the viewer's right, to the bottom, from slice to slice
    "axial": ((1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
}
TURNS = [DisplayTurn(*flags) for flags in product((False, True), repeat=3)]


def stored_frame(turn: DisplayTurn, right, down, corner, number) -> Frame:
    """A frame that `turn` brings to the display whose upper left pixel lies at `corner`."""
    position, across, under = np.array(corner, float), np.array(right, float), np.array(down, float)
    width, height = (ROWS, COLUMNS) if turn.transpose else (COLUMNS, ROWS)
    step_across, step_down = reversed(SPACING_MM) if not turn.transpose else SPACING_MM
    if turn.flip_columns:
        position, across = position + across * step_across * (width - 1), -across
    if turn.flip_rows:
        position, under = position + under * step_down * (height - 1), -under
    row, column = (under, across) if turn.transpose else (across, under)
    return a_frame(position, (*row, *column), number=number)


def displayed_corner(turn: DisplayTurn, frame: Frame) -> tuple[float, ...]:
    """Where the upper left pixel of the display lies in the patient."""
    index = np.indices((ROWS, COLUMNS)).transpose(1, 2, 0)  # (row, column) of every stored pixel
    shown = index.transpose(1, 0, 2) if turn.transpose else index
    shown = shown[:: -1 if turn.flip_rows else 1, :: -1 if turn.flip_columns else 1]
    row, column = shown[0, 0]
    assert frame.plane is not None
    place = np.array(frame.plane.position_lps_mm)
    place += row * SPACING_MM[0] * np.array(frame.plane.column_cosines)
    place += column * SPACING_MM[1] * np.array(frame.plane.row_cosines)
    return tuple(place)


@given(st.sampled_from(sorted(VIEWS)), st.sampled_from(TURNS), st.permutations(range(5)))
def test_any_stored_turn_and_file_order_give_one_display(plane, stored, order):
    right, down, onward = map(np.array, VIEWS[plane])
    corners = [(-7.0, 3.0, 11.0) + 2.5 * k * onward for k in range(5)]
    frames = [stored_frame(stored, right, down, corners[k], number) for number, k in enumerate(order)]
    (stack,), unread = stack_series(a_series(frames))
    assert (stack.plane, stack.turn, unread) == (plane, stored, ())
    assert stack.tilt_degrees == pytest.approx(0, abs=1e-6)
    shown = [displayed_corner(stack.turn, one.frame) for one in stack.slices]
    assert np.allclose(shown, corners)


@pytest.mark.parametrize(
    ("orientation", "plane", "turn"),
    [
        (("L", "F"), "projection", DisplayTurn()),
        (("R", "F"), "projection", DisplayTurn(flip_columns=True)),
        (("L", "H"), "projection", DisplayTurn(flip_rows=True)),
        (("F", "L"), "projection", DisplayTurn(transpose=True)),
        (("P", "F"), "other projection", DisplayTurn()),  # lateral: anterior at the viewer's left
        (("A", "F"), "other projection", DisplayTurn(flip_columns=True)),
        (("LF", "FR"), "projection", DisplayTurn()),  # a little rotated
        (("L", "L"), "projection", DisplayTurn()),  # says nothing
        (("L",), "projection", DisplayTurn()),
        ((), "projection", DisplayTurn()),
    ],
)
def test_projections_are_turned_by_patient_orientation(orientation, plane, turn):
    frame = replace(a_frame(None, AXIAL), patient_orientation=orientation)
    (stack,), _ = stack_series(a_series([frame], "DX"))
    assert (stack.plane, stack.turn) == (plane, turn)


@pytest.mark.parametrize(("view", "plane"), [("PA", "projection"), ("LL", "other projection")])
def test_without_orientation_the_view_position_tells_a_frontal_film(view, plane):
    frame = replace(a_frame(None, AXIAL), view_position=view)
    (stack,), _ = stack_series(a_series([frame], "CR"))
    assert stack.plane == plane


def test_a_frontal_and_a_lateral_film_of_one_series_are_two_stacks():
    frontal = replace(a_frame(None, AXIAL), patient_orientation=("R", "F"))
    lateral = replace(a_frame(None, AXIAL), patient_orientation=("A", "H"))
    stacks, _ = stack_series(a_series([frontal, lateral], "DX"))
    assert [(one.plane, one.turn) for one in stacks] == [
        ("projection", DisplayTurn(flip_columns=True)),
        ("other projection", DisplayTurn(flip_rows=True, flip_columns=True)),
    ]


def test_slices_without_any_orientation_have_no_plane():
    (stack,), _ = stack_series(a_series([a_frame(None, AXIAL)], "CT"))
    assert (stack.plane, stack.turn) == ("unknown", DisplayTurn())


# --- what is unusual ---------------------------------------------------------------------------------------------


def test_a_missing_position_is_a_gap(tmp_path):
    # z = 0, 2.5, 7.5, 10, 12.5; from the head down, the gap of 5.0 − 2.5 mm follows slice 3 (z = 7.5).
    stack, _ = stack_of_files(tmp_path, count=5, gap_at=2)
    assert stack.gaps == (Gap(after_slice=3, missing_mm=2.5),)
    assert stack.slice_spacing_mm == 2.5


def test_a_position_taken_twice_keeps_the_lower_instance_number(tmp_path):
    stack, unread = stack_of_files(tmp_path, count=4, duplicate_at=1)
    assert [one.frame.instance_number for one in stack.slices] == [4, 3, 2, 1]
    (left_out,) = unread
    assert left_out.reason == f"same position as {stack.slices[2].frame.source.name}"
    assert stack.slice_spacing_mm == 2.5


def test_slices_a_tenth_of_the_spacing_apart_are_not_one_position():
    stack = axial_stack(0, 2.0, 2.21, 4.0, 6.0)  # 0.21 mm > 0.1 × 2.0 mm
    assert len(stack.slices) == 5
    stack = axial_stack(0, 2.0, 2.19, 4.0, 6.0)  # 0.19 mm
    assert len(stack.slices) == 4


def test_uneven_spacing_is_no_gap():
    stack = axial_stack(0, 2.0, 4.0, 6.6, 8.6)
    assert stack.slice_spacing_mm == pytest.approx(2.0)
    assert stack.gaps == ()


def test_gantry_tilt_is_measured(tmp_path):
    stack, _ = stack_of_files(tmp_path, count=4, tilt_degrees=12.0)
    assert stack.tilt_degrees == pytest.approx(12.0, abs=0.01)
    # Steps of 2.5 mm along z are shorter along the tilted normal: 2.5 × cos 12° = 2.445 mm.
    assert stack.slice_spacing_mm == pytest.approx(2.445, abs=0.001)


def test_a_tilted_stack_shares_one_field_of_view(tmp_path):
    # From the head down, each 2.5 mm along z drifts by 2.5 × sin 12° = 0.52 mm along the columns: three steps, 1.56 mm.
    stack, _ = stack_of_files(tmp_path, count=4, tilt_degrees=12.0)
    field = stack.turn.straightening
    assert field is not None
    assert field.across_mm == pytest.approx((0, 0), abs=1e-6)
    assert field.down_mm[1] - field.down_mm[0] == pytest.approx(1.559, abs=0.001)
    assert 0 in field.down_mm


@pytest.mark.parametrize(
    "options", [{"modality": "MR"}, {"spacing_mm": None}, {"tilt_degrees": 0.4}, {"tilt_degrees": 40.0}], ids=str
)
def test_only_a_tilted_ct_with_millimetres_is_straightened(tmp_path, options):
    stack, _ = stack_of_files(tmp_path, count=4, **{"tilt_degrees": 12.0, **options})
    assert stack.turn.straightening is None


def test_frames_of_different_orientation_or_matrix_are_different_stacks():
    frames = [a_frame((0, 0, z), AXIAL, number=z) for z in (0, 5, 10)]
    frames += [a_frame((0, y, 0), CORONAL, number=20 + y) for y in (0, 5)]
    frames += [a_frame((0, 0, 20), AXIAL, number=30, rows=8)]
    stacks, unread = stack_series(a_series(frames))
    assert [(one.plane, len(one.slices)) for one in stacks] == [("axial", 3), ("coronal", 2), ("axial", 1)]
    assert unread == ()


# --- slabs -------------------------------------------------------------------------------------------------------


def slab_lengths(stack, slab_mm):
    return [len(slab.slices) for slab in slabs(stack, slab_mm)]


def test_slabs_average_neighbours_to_about_the_thickness_asked_for():
    stack = axial_stack(*np.arange(7) * 1.5)
    assert slab_lengths(stack, 3.0) == [2, 2, 2, 1]
    assert slab_lengths(stack, 4.0) == [3, 3, 1]  # 4 / 1.5 = 2.7
    assert slab_lengths(stack, 1.0) == [1] * 7
    assert slab_lengths(stack, None) == [1] * 7


def test_no_slab_spans_a_gap():
    stack = axial_stack(0, 1, 2, 6, 7)  # from the head: 7 6 | 2 1 0
    assert slab_lengths(stack, 3.0) == [2, 3]
    assert slab_lengths(stack, 2.0) == [2, 2, 1]


@given(st.lists(st.sampled_from((1.0, 4.0)), max_size=30), st.sampled_from((None, 0.5, 2.0, 3.0, 100.0)))
def test_every_slice_is_in_exactly_one_slab(steps, slab_mm):
    stack = axial_stack(*np.cumsum([0.0, *steps]))
    cut = slabs(stack, slab_mm)
    assert [one for slab in cut for one in slab.slices] == list(stack.slices)
    assert [slab.number for slab in cut] == list(range(1, len(cut) + 1))


@pytest.mark.parametrize(("step", "slab_mm"), [(0.6, 3.0), (1.9, 3.0), (2.0, None), (5.0, None)])
def test_only_thin_slices_are_averaged_by_default(step, slab_mm):
    assert auto_slab_mm(axial_stack(0, step, 2 * step)) == slab_mm


def test_a_single_slice_is_its_own_slab():
    stack = axial_stack(3.0)
    assert (stack.slice_spacing_mm, auto_slab_mm(stack)) == (None, None)
    assert slab_lengths(stack, 3.0) == [1]
