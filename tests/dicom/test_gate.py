from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvl.dicom.gate import NOT_READABLE, note_stacks, verdict
from medvl.dicom.geometry import stack_series
from medvl.dicom.regions import contradiction
from medvl.dicom.scan import scan
from medvl.records import Note, Series, Stack, Study
from tests.builders import AXIAL, CORONAL, write_series
from tests.dicom.test_geometry import a_frame, a_series


def judged(study: Study) -> tuple[Stack, ...]:
    (series,) = study.series
    return note_stacks(series, *stack_series(series), study.unread)


def noted(folder: Path, **options) -> dict[str, dict[str, float | str]]:
    """The notes on a written series that lies in one stack."""
    write_series(folder, **options)
    (stack,) = judged(scan([folder]).studies[0])
    return {note.code: dict(note.values) for note in stack.notes}


def notes_of(series: Series) -> tuple[Note, ...]:
    stacks, unread = stack_series(series)
    return note_stacks(series, stacks, unread)[0].notes


def axial(*distances_mm: float, spacing=(1.0, 1.0), **frame) -> Series:
    unit = {"rescale_unit": "HU", **frame}
    frames = [a_frame((0, 0, z), AXIAL, number=n, spacing=spacing) for n, z in enumerate(distances_mm, start=1)]
    return a_series([replace(frame, **unit) for frame in frames])


# --- nothing to note ---------------------------------------------------------------------------------------------


def test_a_plain_ct_is_ready(tmp_path):
    write_series(tmp_path, count=5)
    (stack,) = judged(scan([tmp_path]).studies[0])
    assert (stack.notes, verdict(stack)) == ((), "ready")


@given(st.permutations(range(6)), st.floats(0.3, 10), st.booleans())
def test_a_clean_stack_in_any_storage_order_has_no_notes(order, step_mm, flipped):
    cosines = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0) if flipped else AXIAL
    frames = [a_frame((3.5, -8, step_mm * k), cosines, number=n, spacing=(0.7, 0.7)) for n, k in enumerate(order)]
    frames = [replace(frame, rescale_unit="HU", slice_thickness_mm=step_mm) for frame in frames]
    assert notes_of(a_series(frames)) == ()


# --- each note, on a bad copy ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "values"),
    [
        # z = 0, 2.5, 7.5, 10, 12.5; from the head down, 5.0 − 2.5 mm are missing after slice 3.
        ({"gap_at": 2}, "gap", {"slice": 3, "mm": 2.5}),
        ({"duplicate_at": 1}, "duplicate_position", {"n": 1}),
        ({"tilt_degrees": 12.0}, "tilt", {"degrees": 12.0}),
        ({"tilt_degrees": 12.0, "modality": "MR"}, "shear", {"degrees": 12.0}),
        ({"spacing_mm": (0.8, 0.5)}, "non_square_pixels", {"rows_mm": 0.8, "columns_mm": 0.5}),
        ({"thickness_mm": 5.0}, "overlap", {"thickness_mm": 5.0, "spacing_mm": 2.5}),
        ({"thickness_mm": 1.0}, "apart", {"thickness_mm": 1.0, "spacing_mm": 2.5}),
        ({"spacing_mm": None}, "no_pixel_spacing", {}),
        ({"spacing_mm": None, "modality": "DX", "position": None, "count": 1}, "uncalibrated", {}),
        ({"spacing_mm": (0.0, 0.0)}, "zero_pixel_spacing", {}),
        ({"position": None}, "no_position", {}),
        ({"count": 2}, "few_slices", {"n": 2}),
        ({"slope": None, "intercept": None}, "unknown_unit", {"unit": ""}),
        ({"rescale_type": "US"}, "unknown_unit", {"unit": "US"}),
        ({"slope": 0.0}, "zero_slope", {}),
        ({"pixels": np.full((16, 16), 900, np.uint16), "intercept": 0.0}, "unrescaled", {}),
        ({"iop": CORONAL}, "reformat", {"plane": "coronal"}),
        ({"image_type": ("DERIVED", "PRIMARY", "AXIAL")}, "derived", {}),
        ({"extra": {"BurnedInAnnotation": "YES"}}, "burned_in_annotation", {}),
        ({"body_part": "CHEST", "description": "Brain 5 mm"}, "body_part", {"tag": "chest", "word": "head"}),
    ],
    ids=str,
)
def test_what_is_unusual_is_noted_alone_with_its_numbers(tmp_path, options, code, values):
    assert noted(tmp_path, **options) == {code: values}


@pytest.mark.parametrize(
    ("options", "code", "detail"),
    [
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localizer", "localizer"),
        ({"description": "Dose Report"}, "dose_page", ""),
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, "reformat_or_projection", "MPR"),
        ({"image_type": ("DERIVED", "SECONDARY", "AXIAL", "MIP")}, "reformat_or_projection", "MIP"),
        (
            {"image_type": ("DERIVED", "SECONDARY", "SCREEN SAVE")},
            "secondary_capture",
            "a picture of a screen or a paper",
        ),
        ({"modality": "ES", "sop_class": "1.2.840.10008.5.1.4.1.1.77.1.1"}, "other_modality", "ES"),
    ],
    ids=str,
)
def test_a_series_not_worth_reading_has_one_note_that_says_what_it_is(tmp_path, options, code, detail):
    write_series(tmp_path, count=1, **options)
    (stack,) = judged(scan([tmp_path]).studies[0])
    assert stack.notes == (Note(code, (("detail", detail),)),)
    assert code in NOT_READABLE
    assert verdict(stack) == "not readable"


@pytest.mark.parametrize(
    ("reason", "code", "detail"),
    [
        ("colour picture (RGB)", "colour", "RGB"),
        ("cine run of 40 pictures", "cine", "40"),
        ("PET without attenuation correction", "uncorrected_pet", ""),
        ("a kind without a code", "other_kind", "a kind without a code"),
    ],
)
def test_every_reason_not_to_read_has_a_code_or_is_kept_in_its_words(reason, code, detail):
    assert notes_of(replace(axial(0, 1, 2), not_read_because=reason)) == (Note(code, (("detail", detail),)),)


def test_a_frame_near_to_another_is_no_exact_duplicate():
    # 0.15 mm apart where slices come every 2 mm: within a tenth of the spacing.
    assert notes_of(axial(0, 2, 2.15, 4, 6)) == (Note("near_duplicate_position", (("n", 1), ("mm", 0.15))),)


def test_uneven_steps_are_noted_with_the_least_and_the_most():
    assert notes_of(axial(0, 2.0, 4.0, 6.6, 8.6)) == (
        Note("uneven_spacing", (("least_mm", 2.0), ("most_mm", 2.6))),
    )  # 2.6 is no gap: below 1.5 × 2 mm


def test_a_ct_with_a_rescale_of_its_own_for_each_slice_is_noted():
    series = axial(0, 1, 2)
    frames = [replace(frame, rescale_slope=1.0 + n) for n, frame in enumerate(series.frames)]
    assert notes_of(replace(series, frames=tuple(frames))) == (Note("rescale_varies", (("n", 3),)),)


def test_a_pet_with_a_rescale_of_its_own_for_each_slice_is_not():
    series = axial(0, 1, 2, rescale_unit="BQML")
    frames = [replace(frame, rescale_slope=1.0 + n) for n, frame in enumerate(series.frames)]
    assert notes_of(replace(series, frames=tuple(frames), modality="PT")) == ()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"rows": 8}, "mixed_matrix"),
        ({"pixel_spacing_mm": (0.5, 0.5)}, "mixed_spacing"),
        ({"plane": a_frame((0, 0, 9), CORONAL).plane}, "mixed_orientation"),
    ],
    ids=["matrix", "spacing", "orientation"],
)
def test_a_split_series_says_in_what_its_stacks_differ(change, code):
    series = axial(0, 1, 2, 3)
    other = replace(series.frames[-1], **change)
    stacks, unread = stack_series(replace(series, frames=(*series.frames[:-1], other)))
    first, second = note_stacks(series, stacks, unread)
    assert first.notes == (Note(code, (("n", 2),)),)
    assert second.notes[-1] == first.notes[0]


def test_a_duplicate_is_noted_on_its_own_stack_only():
    series = axial(0, 1, 2, 3)
    twice = replace(series.frames[0], source=a_frame((0, 0, 0), AXIAL, number=9).source)
    coronal = [a_frame((0, 500 + y, 0), CORONAL, number=20 + y, spacing=(1.0, 1.0)) for y in range(3)]
    coronal = [replace(frame, rescale_unit="HU") for frame in coronal]
    series = replace(series, frames=(*series.frames, twice, *coronal))
    first, second = note_stacks(series, *stack_series(series))
    assert Note("duplicate_position", (("n", 1),)) in first.notes
    assert "duplicate_position" not in [note.code for note in second.notes]


def test_pixels_that_end_early_are_noted_without_decoding(tmp_path):
    paths = write_series(tmp_path, count=5)
    paths[4].write_bytes(paths[4].read_bytes()[:-10])
    (stack,) = judged(scan([tmp_path]).studies[0])
    assert stack.notes == (Note("truncated", (("n", 1),)),)
    assert len(stack.slices) == 4


def test_values_that_are_no_hu_have_no_unit(tmp_path):
    write_series(tmp_path, count=3, pixels=np.full((16, 16), 900, np.uint16), intercept=0.0)
    assert {frame.rescale_unit for frame in scan([tmp_path]).studies[0].series[0].frames} == {""}


# --- body part ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "description", "found"),
    [
        ("ABDOMEN", "CT Thorax 3 mm", ("abdomen", "chest")),
        ("HEAD", "Knie links, Knee L", ("head", "limb")),
        ("CHEST", "Thorax/Abdomen", None),  # one of the two is the tag's
        ("ABDOMENPELVIS", "Pelvis", None),
        ("CHESTABDPELVIS", "Liver", None),
        ("CHEST", "C-Spine", None),
        ("CHEST", "", None),
        ("", "Brain", None),
    ],
)
def test_body_part_and_description_contradict_only_where_they_share_no_region(tag, description, found):
    assert contradiction(tag, description) == found
