from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvl.dicom.geometry import stack_series
from medvl.records import Frame, PixelLayout, Plane, Series, Source, Stack, Traits
from tests.builders import AXIAL, CORONAL

LAYOUT = PixelLayout("1.2.840.10008.1.2.1", 0, 40, 16, 16, True, 1, "MONOCHROME2", 1)


def a_frame(z, *, iop=AXIAL, x=0.0, y=0.0, acquisition="", time_s=None, thickness=None, **traits) -> Frame:
    """A frame at z mm. All are of one source; tests tell them apart by their index, which `a_series` sets."""
    return Frame(
        *(Source(Path("file"), "file"), 0, "uid", "", 4, 5, LAYOUT),
        plane=Plane((x, y, z), tuple(iop[:3]), tuple(iop[3:])),
        pixel_spacing_mm=(1.0, 1.0),
        slice_thickness_mm=thickness,
        acquisition=acquisition,
        acquired_at_s=time_s,
        traits=Traits(**traits),
    )


def stacks_of(frames, modality="MR") -> tuple[Stack, ...]:
    """The stacks of a series, all frames of which must be in one of them."""
    numbered = tuple(replace(frame, index=index) for index, frame in enumerate(frames))
    stacks, unread = stack_series(Series("1.2.3", 1, modality, "", "", numbered))
    assert unread == ()
    return stacks


def labels(stacks) -> list[str]:
    return [stack.label for stack in stacks]


def lengths(stacks) -> list[int]:
    return [len(stack.slices) for stack in stacks]


LEVELS = (0.0, 5.0, 10.0, 15.0)


def test_contrast_phases_are_told_by_their_acquisitions_and_named_by_their_delay():
    phases = [("2 20240131", 42.0), ("1 20240131", 0.0), ("3 20240131", 180.0)]
    frames = [a_frame(z, acquisition=name, time_s=3600 + late + z / 5) for name, late in phases for z in LEVELS]
    stacks = stacks_of(frames, "CT")
    assert labels(stacks) == ["phase 1 of 3", "phase 2 of 3 (+42 s)", "phase 3 of 3 (+180 s)"]
    assert [one.frame.acquired_at_s for one in stacks[1].slices] == [3645.0, 3644.0, 3643.0, 3642.0]  # from the head


def test_phases_without_numbers_are_told_by_their_times():
    frames = [a_frame(z, time_s=start + z / 10) for start in (100.0, 130.0) for z in LEVELS]
    assert labels(stacks_of(frames, "CT")) == ["phase 1 of 2", "phase 2 of 2 (+30 s)"]


def test_a_short_phase_never_mixes_with_a_long_one():
    long = [a_frame(z * 5.0, time_s=200 + z / 10) for z in range(20)]
    short = [a_frame(z * 5.0, time_s=100 + z / 10) for z in range(3)]
    stacks = stacks_of([*long, *short], "CT")
    assert labels(stacks) == ["phase 1 of 2", "phase 2 of 2 (+100 s)"]
    assert lengths(stacks) == [3, 20]


def test_acquisitions_one_behind_the_other_stay_one_stack():
    frames = [a_frame(z, acquisition=str(z // 10), time_s=z) for z in range(0, 40, 5)]
    (stack,) = stacks_of(frames, "CT")
    assert (len(stack.slices), stack.apart) == (8, ())


def test_times_that_differ_from_slice_to_slice_count_in_their_order_at_each_position():
    frames = [
        a_frame(z, time_s=10 * z + late) for z in LEVELS for late in (2.0, 0.0)
    ]  # both phases, then the next slice
    stacks = stacks_of(frames)
    assert labels(stacks) == ["phase 1 of 2", "phase 2 of 2 (+2 s)"]
    assert [one.frame.acquired_at_s for one in stacks[1].slices] == [152.0, 102.0, 52.0, 2.0]


def test_heart_phases_are_ordered_by_trigger_time_though_beats_differ():
    frames = [a_frame(z, trigger_ms=k * (40 + z)) for z in LEVELS for k in (2, 0, 1)]
    stacks = stacks_of(frames)
    assert labels(stacks) == ["heart phase 1 of 3", "heart phase 2 of 3", "heart phase 3 of 3"]
    assert [one.frame.traits.trigger_ms for one in stacks[2].slices] == [110.0, 100.0, 90.0, 80.0]


@pytest.mark.parametrize(
    ("traits", "expected"),
    [
        ([{"b_value": 800.0}, {"b_value": 0.0}], ["b 0 s/mm²", "b 800 s/mm²"]),
        ([{"echo_ms": 80.0}, {"echo_ms": 20.0}], ["echo 1 of 2 (TE 20 ms)", "echo 2 of 2 (TE 80 ms)"]),
        ([{"inversion_ms": 500.0}, {"inversion_ms": 150.0}], ["TI 150 ms", "TI 500 ms"]),
        ([{"flip_degrees": 15.0}, {"flip_degrees": 3.0}], ["flip 3°", "flip 15°"]),
        ([{"temporal_position": 2}, {"temporal_position": 1}], ["phase 1 of 2", "phase 2 of 2"]),
        ([{"kernel": "Br38"}, {"kernel": "Bl57"}], ["kernel Bl57", "kernel Br38"]),
        ([{"component": "PHASE"}, {"component": "MAGNITUDE"}], ["magnitude", "phase"]),
        ([{"stack_id": "1"}, {"stack_id": "2"}], ["stack ID 1", "stack ID 2"]),
        ([{"dimensions": (1, 2)}, {"dimensions": (1, 1)}], ["dimension 1 of 2", "dimension 2 of 2"]),
        ([{"heart_percent": 75.0}, {"heart_percent": 0.0}], ["0 % of RR", "75 % of RR"]),
        (
            [{"image_type": ("DERIVED", "PRIMARY", "DIXON", w)} for w in ("WATER", "FAT", "IN_PHASE", "OPP_PHASE")],
            ["FAT", "IN_PHASE", "OPP_PHASE", "WATER"],
        ),
    ],
)
def test_each_stack_says_what_it_is(traits, expected):
    stacks = stacks_of([a_frame(z, **each) for z in LEVELS for each in traits])
    assert labels(stacks) == expected
    assert lengths(stacks) == [4] * len(expected)


def test_a_diffusion_series_is_told_by_b_value_then_direction_not_by_its_acquisitions():
    ways = [(0.0, None), (800.0, (1.0, 0.0, 0.0)), (800.0, (0.0, 1.0, 0.0))]
    frames = [
        a_frame(z, b_value=b, b_direction=way, acquisition=str(number))
        for z in LEVELS
        for number, (b, way) in enumerate(ways)
    ]
    assert labels(stacks_of(frames)) == [
        "b 0 s/mm²",
        "b 800 s/mm², direction 1 of 2",
        "b 800 s/mm², direction 2 of 2",
    ]


def test_coronal_slices_of_several_table_positions_are_stations():
    frames = [a_frame(z, y=y, iop=CORONAL) for z in (900.0, 400.0) for y in (0.0, 5.0, 10.0)]
    stacks = stacks_of(frames)
    assert labels(stacks) == ["station 1 of 2", "station 2 of 2"]  # down the body
    assert [one.frame.plane.position_lps_mm[2] for one in stacks[0].slices] == [900.0] * 3


def test_positions_that_differ_by_the_tables_jitter_are_one():
    frames = [a_frame(z + jitter, b_value=b, thickness=5.0) for z in LEVELS for b, jitter in ((0.0, 0.0), (800.0, 0.1))]
    assert lengths(stacks_of(frames)) == [4, 4]


def test_what_nothing_tells_apart_is_left_out_and_said():
    frames = tuple(replace(a_frame(0.0), index=index, instance_number=index) for index in (1, 0))
    (stack,), unread = stack_series(Series("1.2.3", 1, "MR", "", "", frames))
    assert [one.frame.index for one in stack.slices] == [0]
    assert [(one.frame_index, one.reason) for one in unread] == [(1, "same position as file")]


FRAMES = st.builds(
    a_frame,
    st.sampled_from(LEVELS),
    iop=st.sampled_from((AXIAL, CORONAL)),
    x=st.sampled_from((0.0, 0.5, 300.0)),
    acquisition=st.sampled_from(("", "1", "2")),
    time_s=st.none() | st.floats(0, 100),
    b_value=st.sampled_from((None, 0.0, 800.0)),
    b_direction=st.sampled_from((None, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))),
    trigger_ms=st.none() | st.floats(0, 1000),
    component=st.sampled_from(("", "PHASE", "MAGNITUDE", "OTHER")),
    image_type=st.sampled_from(((), ("ORIGINAL", "PRIMARY"), ("DERIVED", "PRIMARY", "W"))),
)


@given(st.lists(FRAMES, min_size=1, max_size=30), st.booleans())
def test_every_frame_is_in_one_stack_or_unread_exactly_once(frames, without_place):
    numbered = [replace(frame, index=index) for index, frame in enumerate(frames)]
    if without_place:
        numbered[0] = replace(numbered[0], plane=None)
    stacks, unread = stack_series(Series("1.2.3", 1, "MR", "", "", tuple(numbered)))
    found = Counter(one.frame.index for stack in stacks for one in stack.slices)
    found.update(one.frame_index for one in unread)
    assert found == Counter(range(len(frames)))
