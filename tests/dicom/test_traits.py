from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage

from medvl.dicom.geometry import stack_series
from medvl.dicom.scan import scan
from medvl.records import Frame, Stack, Traits
from tests.builders import make_enhanced_ct, make_instance, write_dataset
from tests.dicom.scanning import SMALL, only_series


def an_item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        nested = isinstance(value, Dataset)
        setattr(item, keyword, DicomSequence([value]) if nested else value)
    return item


def frame_of(folder, modality="MR", **extra) -> Frame:
    """The frame of a single-frame image."""
    write_dataset(folder / "a", make_instance(stored=SMALL, modality=modality, extra=extra))
    return only_series(scan([folder])).frames[0]


def enhanced(folder, groups, *, sop_class=EnhancedMRImageStorage, shared=None, top=None) -> tuple[Stack, ...]:
    """The stacks of an enhanced MR object whose frames alternate between two places."""
    places = [(0.0, 0.0, 5.0 * (index % 2)) for index in range(len(groups))]
    dataset = make_enhanced_ct(np.stack([SMALL] * len(groups)), positions=places, modality="MR", extra=top)
    dataset.SOPClassUID = sop_class
    for keyword, item in (shared or {}).items():
        setattr(dataset.SharedFunctionalGroupsSequence[0], keyword, DicomSequence([item]))
    for frame, group in zip(dataset.PerFrameFunctionalGroupsSequence, groups, strict=True):
        for keyword, item in group.items():
            setattr(frame, keyword, DicomSequence([item]))
    write_dataset(folder / "enhanced", dataset)
    stacks, unread = stack_series(only_series(scan([folder])))
    assert unread == ()
    return stacks


def labels(stacks) -> list[str]:
    assert {len(stack.slices) for stack in stacks} == {2}
    return [stack.label for stack in stacks]


def twice(values) -> list[Any]:
    """Each value for both places."""
    return [value for value in values for _ in range(2)]


def test_a_single_frame_keeps_its_traits_at_the_top_of_the_header(tmp_path):
    frame = frame_of(
        tmp_path,
        EchoTime=80.0,
        InversionTime=150.0,
        FlipAngle=15.0,
        DiffusionBValue=800.0,
        DiffusionGradientOrientation=[0.6, -0.0001, 0.8],
        TemporalPositionIdentifier=3,
        TriggerTime=42.0,
        ImageType=["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"],
    )
    assert frame.traits == Traits(
        image_type=("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"),
        component="MAGNITUDE",
        b_value=800.0,
        b_direction=(0.6, 0.0, 0.8),
        echo_ms=80.0,
        inversion_ms=150.0,
        flip_degrees=15.0,
        temporal_position=3,
        trigger_ms=42.0,
    )


@pytest.mark.parametrize(
    ("image_type", "component"),
    [
        (["ORIGINAL", "PRIMARY", "M", "ND"], "MAGNITUDE"),
        (["ORIGINAL", "PRIMARY", "P", "ND"], "PHASE"),
        (["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"], "PHASE"),
        (["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P", "PCA"], "PHASE"),
        (["ORIGINAL", "PRIMARY", "R_IR", "R", "IR"], "REAL"),
        (["ORIGINAL", "PRIMARY", "OTHER"], ""),
        (["DERIVED", "PRIMARY", "DIXON", "IN_PHASE"], ""),
        (["ORIGINAL", "PRIMARY", "MPR"], ""),
    ],
)
def test_vendors_write_the_component_into_the_image_type(tmp_path, image_type, component):
    assert frame_of(tmp_path, ImageType=image_type).traits.component == component


@pytest.mark.parametrize(
    ("group", "creator", "element", "vr", "value", "b_value"),
    [
        (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", 800, 800.0),
        (0x0043, "GEMS_PARM_01", 0x39, "IS", [1000000800, 8, 0, 0], 800.0),
        (0x0043, "GEMS_PARM_01", 0x39, "IS", [800, 8, 0, 0], 800.0),
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", 800.0, 800.0),
        (0x0019, "SIEMENS MR HEADER", 0x0C, "UN", b"800 ", 800.0),
        (0x2001, "Philips Imaging DD 001", 0x03, "UN", b"\x00\x00\x48\x44", 800.0),
        (0x0019, "ANOTHER", 0x0C, "IS", 800, None),
    ],
)
def test_b_values_of_vendors_are_read_where_the_creator_is_theirs(
    tmp_path, group, creator, element, vr, value, b_value
):
    dataset = make_instance(stored=SMALL, modality="MR")
    dataset.private_block(group, creator, create=True).add_new(element, vr, value)
    write_dataset(tmp_path / "a", dataset)
    assert only_series(scan([tmp_path])).frames[0].traits.b_value == b_value


def test_an_enhanced_diffusion_is_split_by_b_value_and_direction(tmp_path):
    way = an_item(DiffusionGradientOrientation=[1.0, 0.0, 0.0])
    other = an_item(DiffusionGradientOrientation=[0.0, 1.0, 0.0])
    diffusions = [
        an_item(DiffusionBValue=800.0, DiffusionGradientDirectionSequence=way),
        an_item(DiffusionBValue=800.0, DiffusionGradientDirectionSequence=other),
        an_item(DiffusionBValue=0.0),
    ]
    stacks = enhanced(tmp_path, [{"MRDiffusionSequence": one} for one in twice(diffusions)])
    assert labels(stacks) == ["b 0 s/mm²", "b 800 s/mm², direction 1 of 2", "b 800 s/mm², direction 2 of 2"]


@pytest.mark.parametrize(
    ("macro", "items", "expected"),
    [
        (
            "MREchoSequence",
            [an_item(EffectiveEchoTime=80.0), an_item(EffectiveEchoTime=20.0)],
            ["echo 1 of 2 (TE 20 ms)", "echo 2 of 2 (TE 80 ms)"],
        ),
        (
            "FrameContentSequence",
            [an_item(TemporalPositionIndex=2), an_item(TemporalPositionIndex=1)],
            ["phase 1 of 2", "phase 2 of 2"],
        ),
        (
            "FrameContentSequence",
            [
                an_item(FrameAcquisitionNumber=1, FrameAcquisitionDateTime="20240131083000.5+0100"),
                an_item(FrameAcquisitionNumber=2, FrameAcquisitionDateTime="20240131083102.5+0100"),
            ],
            ["phase 1 of 2", "phase 2 of 2 (+62 s)"],
        ),
        (
            "CardiacSynchronizationSequence",
            [an_item(NominalPercentageOfCardiacPhase=70.0), an_item(NominalPercentageOfCardiacPhase=30.0)],
            ["30 % of RR", "70 % of RR"],
        ),
        (
            "MRImageFrameTypeSequence",
            [
                an_item(FrameType=["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"], ComplexImageComponent="MAGNITUDE"),
                an_item(FrameType=["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"], ComplexImageComponent="PHASE"),
            ],
            ["magnitude", "phase"],
        ),
        ("FrameContentSequence", [an_item(StackID="1"), an_item(StackID="2")], ["stack ID 1", "stack ID 2"]),
        (
            "ContrastBolusUsageSequence",
            [an_item(ContrastBolusAgentPhase="PRE_CONTRAST"), an_item(ContrastBolusAgentPhase="POST_CONTRAST")],
            ["phase 1 of 2 (pre_contrast)", "phase 2 of 2 (post_contrast)"],
        ),
    ],
)
def test_functional_groups_of_each_frame_split_an_enhanced_object(tmp_path, macro, items, expected):
    assert labels(enhanced(tmp_path, [{macro: item} for item in twice(items)])) == expected


def test_what_all_frames_share_does_not_split(tmp_path):
    shared = {"MREchoSequence": an_item(EffectiveEchoTime=20.0)}
    (stack,) = enhanced(tmp_path, [{}, {}], shared=shared)
    assert (stack.apart, stack.slices[0].frame.traits.echo_ms) == ((), 20.0)


def test_dimension_indices_tell_apart_what_no_known_attribute_does(tmp_path):
    pointers = [an_item(DimensionIndexPointer=tag) for tag in (0x00200032, 0x00189079)]
    indices = [(place, number) for number in (2, 1) for place in (1, 2)]
    groups = [{"FrameContentSequence": an_item(DimensionIndexValues=list(index))} for index in indices]
    stacks = enhanced(tmp_path, groups, top={"DimensionIndexSequence": DicomSequence(pointers)})
    assert labels(stacks) == ["dimension 1 of 2", "dimension 2 of 2"]
    assert stacks[0].slices[0].frame.traits.dimensions == (1,)


def test_a_legacy_converted_object_keeps_traits_as_unassigned_attributes(tmp_path):
    groups = [
        {"UnassignedPerFrameConvertedAttributesSequence": an_item(EchoTime=milliseconds)}
        for milliseconds in twice([80.0, 20.0])
    ]
    stacks = enhanced(tmp_path, groups, sop_class=LegacyConvertedEnhancedMRImageStorage)
    assert labels(stacks) == ["echo 1 of 2 (TE 20 ms)", "echo 2 of 2 (TE 80 ms)"]
