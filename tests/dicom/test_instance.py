from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from pydicom.filereader import dcmread
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medvl.dicom.scan import scan
from medvl.dicom.source import open_source
from medvl.records import Plane, Window
from tests.builders import add_frames, make_enhanced_ct, make_instance, uid, write_dataset, write_series
from tests.dicom.scanning import SMALL, all_unread, only_series, reasons, scan_instance

# --- pixels' place ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_native_pixels_lie_where_the_layout_says(tmp_path, syntax):
    (path,) = write_series(tmp_path, count=1, pixels=SMALL, transfer_syntax=syntax)
    layout = only_series(scan([tmp_path])).frames[0].layout
    assert (layout.transfer_syntax_uid, layout.length_bytes, layout.signed) == (syntax, 32, True)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    stored = np.frombuffer(path.read_bytes(), f"{order}i2", count=16, offset=layout.offset_bytes)
    assert stored.tolist() == list(range(16))


def test_deflated_pixels_are_placed_in_the_inflated_dataset(tmp_path):
    write_series(tmp_path / "d", count=1, pixels=SMALL, transfer_syntax=DeflatedExplicitVRLittleEndian)
    write_series(tmp_path / "e", count=1, pixels=SMALL)
    deflated = only_series(scan([tmp_path / "d"])).frames[0].layout
    explicit = only_series(scan([tmp_path / "e"])).frames[0]
    with open_source(explicit.source) as stream:
        meta_bytes = 128 + 4 + 12 + int.from_bytes(stream.read(144)[140:144], "little")  # PS3.10 7.1
    assert deflated.offset_bytes == explicit.layout.offset_bytes - meta_bytes
    assert deflated.length_bytes == 32


def test_encapsulated_pixels_have_no_length(tmp_path):
    write_series(tmp_path, count=1, transfer_syntax=RLELossless)
    layout = only_series(scan([tmp_path])).frames[0].layout
    assert (layout.transfer_syntax_uid, layout.length_bytes) == (RLELossless, None)


def test_files_without_preamble_or_meta_information_are_read(tmp_path):
    dataset = make_instance(stored=SMALL)
    for name, implicit, little in (("i", True, True), ("e", False, True), ("b", False, False)):
        stream = BytesIO()
        dataset.SOPInstanceUID = uid(name)
        dcmwrite(stream, dataset, implicit_vr=implicit, little_endian=little)
        (tmp_path / name).write_bytes(stream.getvalue())
    found = {frame.source.name: frame.layout.transfer_syntax_uid for frame in only_series(scan([tmp_path])).frames}
    assert found == {"i": ImplicitVRLittleEndian, "e": ExplicitVRLittleEndian, "b": ExplicitVRBigEndian}


def test_truncated_pixels_are_listed(tmp_path):
    good, torn = write_series(tmp_path, count=2)
    torn.write_bytes(torn.read_bytes()[:-100])
    found = scan([tmp_path])
    assert [frame.source.name for frame in only_series(found).frames] == [good.name]
    assert reasons(found) == ["truncated: the pixels of 0 of 1 frames are there"]


def test_the_whole_frames_of_a_truncated_instance_are_kept(tmp_path):
    path = write_dataset(tmp_path / "a", add_frames(make_instance(stored=SMALL), np.zeros((5, 4, 4), np.int16)))
    path.write_bytes(path.read_bytes()[:-65])  # 2 frames of 32 bytes and a byte
    found = scan([tmp_path])
    assert [frame.index for frame in only_series(found).frames] == [0, 1]
    (unread,) = all_unread(found)
    assert (unread.frame_index, unread.frame_count) == (2, 3)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, "impossible size"),
        ({"Rows": 0}, "impossible size"),
        ({"Rows": 5000, "Columns": 5000}, "truncated: the pixels of 0 of 1 frames"),
        ({"NumberOfFrames": 10**9}, "truncated: the pixels of 1 of 1000000000 frames"),
        ({"BitsAllocated": 24}, r"impossible (0028,0100) Bits Allocated 24"),
        ({"PixelData": None}, "no pixel data"),
    ],
)
def test_impossible_claims_are_refused_before_any_pixel_is_read(tmp_path, claims, reason):
    found = scan_instance(tmp_path, extra=claims)
    assert [one.startswith(reason) for one in reasons(found)] == [True]


def test_impossible_numbers_of_encapsulated_frames_are_refused(tmp_path):
    path = write_dataset(tmp_path / "a", make_instance(stored=SMALL), RLELossless)
    dataset = dcmread(path)
    dataset.NumberOfFrames = 10**9
    dataset.save_as(path)
    assert reasons(scan([tmp_path]))[0].startswith("claims 1000000000 frames in ")


# --- headers ----------------------------------------------------------------------------------------------------------


def test_a_frame_carries_what_its_header_says(tmp_path):
    found = scan_instance(
        tmp_path,
        position=(1.0, 2.0, 3.0),
        iop=(1, 0, 0, 0, 1, 0),
        spacing_mm=(0.7, 0.6),
        padding=-2000,
        windows=[(40, 400), (-600, 1500), (0, 0)],
        window_names=["SOFT", "LUNG", "BAD"],
        extra={"AcquisitionTime": "101530.5", "AcquisitionDate": "20240131"},
    )
    frame = only_series(found).frames[0]
    assert frame.plane == Plane((1.0, 2.0, 3.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    assert (frame.pixel_spacing_mm, frame.slice_thickness_mm) == ((0.7, 0.6), 2.5)
    assert (frame.rescale_slope, frame.rescale_intercept, frame.rescale_unit) == (1.0, -1024.0, "HU")
    assert (frame.padding_value, frame.padding_limit) == (-2000, None)
    assert frame.windows == (Window(40, 400, "SOFT"), Window(-600, 1500, "LUNG"))  # width 0 shows nothing
    assert (frame.acquisition, frame.acquired_at_s) == ("1 20240131", 10 * 3600 + 15 * 60 + 30.5)


@pytest.mark.parametrize(
    ("options", "unit"),
    [
        ({}, "HU"),
        ({"rescale_type": "HU"}, "HU"),
        ({"rescale_type": "US"}, "US"),
        ({"intercept": None}, ""),
        ({"modality": "MR"}, ""),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, ""),
    ],
)
def test_hounsfield_units_are_only_said_of_rescaled_ct(tmp_path, options, unit):
    assert only_series(scan_instance(tmp_path, **options)).frames[0].rescale_unit == unit


@pytest.mark.parametrize("iop", [(0, 0, 0, 0, 0, 0), (1, 0, 0, 1, 0, 0), (2, 0, 0, 0, 2, 0)])
def test_an_orientation_that_is_none_leaves_the_frame_without_place(tmp_path, iop):
    assert only_series(scan_instance(tmp_path, position=(0, 0, 0), iop=iop)).frames[0].plane is None


def test_a_broken_optional_element_does_not_cost_the_slice(tmp_path):
    (path,) = write_series(tmp_path, count=1, thickness_mm=2.5)
    path.write_bytes(path.read_bytes().replace(b"DS\x04\x002.5 ", b"DS\x04\x00abc "))
    assert only_series(scan([tmp_path])).frames[0].slice_thickness_mm is None


def test_frames_of_an_enhanced_ct_lie_where_their_groups_say(tmp_path):
    stored = np.zeros((3, 4, 4), np.int16)
    write_dataset(tmp_path / "a", make_enhanced_ct(stored, positions=[(0, 0, 5.0), (0, 0, 3.0), (0, 0, 1.0)]))
    frames = only_series(scan([tmp_path])).frames
    assert [frame.plane.position_lps_mm[2] for frame in frames if frame.plane] == [5.0, 3.0, 1.0]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert {(frame.pixel_spacing_mm, frame.rescale_intercept, frame.rescale_unit) for frame in frames} == {
        ((0.8, 0.8), -1024.0, "HU")
    }


def test_frames_of_a_plain_multiframe_instance_have_no_place(tmp_path):
    instance = make_instance(stored=SMALL, position=(0, 0, 0), iop=(1, 0, 0, 0, 1, 0))
    write_dataset(tmp_path / "a", add_frames(instance, np.zeros((2, 4, 4), np.int16)))
    assert [frame.plane for frame in only_series(scan([tmp_path])).frames] == [None, None]
