from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import dcmread
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from medvl.dicom.scan import require_images, scan
from medvl.dicom.source import find_sources, open_source
from medvl.errors import InputError
from medvl.records import Plane, Scan, Series, Unread, Window
from tests.builders import add_frames, make_enhanced_ct, make_instance, uid, write_dataset, write_series

CAPTURE = "secondary capture (a picture of a screen or a paper)"
REAL_EDGE = Path(__file__).parents[3] / "shared" / "data" / "edge.tar.xz"
SMALL = np.arange(16, dtype=np.int16).reshape(4, 4)


def only_series(found: Scan) -> Series:
    (study,) = found.studies
    (series,) = study.series
    return series


def all_unread(found: Scan) -> list[Unread]:
    return [*found.unread, *(one for study in found.studies for one in study.unread)]


def reasons(found: Scan) -> list[str]:
    return sorted(one.reason for one in all_unread(found))


def scan_instance(folder: Path, **options) -> Scan:
    write_dataset(folder / "a", make_instance(stored=SMALL, **options))
    return scan([folder])


# --- finding -----------------------------------------------------------------------------------------------------


def test_series_are_found_at_any_depth_under_names_that_say_nothing(tmp_path):
    write_series(tmp_path / "x" / "y", count=3, series="one")
    write_series(tmp_path / "z", count=2, series="two")
    found = scan([tmp_path])
    (study,) = found.studies
    assert sorted(len(series.frames) for series in study.series) == [2, 3]
    names = {frame.source.name for series in study.series for frame in series.frames}
    assert all(name.startswith(("x/y/", "z/")) for name in names)
    assert (found.file_count, all_unread(found)) == (5, [])


def test_progress_counts_files(tmp_path):
    write_series(tmp_path, count=3)
    counts: list[int] = []
    scan([tmp_path], progress=counts.append)
    assert counts == [1, 2, 3]


def test_several_paths_keep_their_names_apart(tmp_path):
    write_series(tmp_path / "one", count=1, series="one")
    write_series(tmp_path / "two", count=1, series="two")
    found = scan([tmp_path / "one", tmp_path / "two"])
    assert {one.frames[0].source.name.split("/")[0] for one in found.studies[0].series} == {"one", "two"}


def test_a_single_file_is_a_series(tmp_path):
    (path,) = write_series(tmp_path, count=1)
    assert only_series(scan([path])).frames[0].source.name == path.name


def test_a_path_that_does_not_exist_is_said_so(tmp_path):
    with pytest.raises(InputError, match=r"There is no .*nowhere\. A folder, a DICOM file"):
        scan([tmp_path / "nowhere"])


def test_other_files_are_listed_and_those_of_file_managers_are_not(tmp_path):
    (tmp_path / "notes.txt").write_text("no image here")
    (tmp_path / "empty").touch()
    (tmp_path / ".DS_Store").write_text("junk")
    assert reasons(scan([tmp_path])) == ["not a DICOM file", "not a DICOM file"]


def test_links_out_of_the_folder_are_listed_not_followed(tmp_path):
    (outside,) = write_series(tmp_path / "outside", count=1)
    inside = tmp_path / "inside"
    write_series(inside, count=1, series="in")
    (inside / "file").symlink_to(outside)
    (inside / "folder").symlink_to(outside.parent)
    (inside / "loop").symlink_to(inside)
    (inside / "nowhere").symlink_to(inside / "gone")
    found = scan([inside])
    assert len(only_series(found).frames) == 1
    assert reasons(found) == [
        "a link that leads out of the folder",
        "a link that leads out of the folder",
        "a link to a folder",
        "cannot be read (No such file or directory)",
    ]


def test_a_pipe_does_not_hang_the_scan(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert reasons(scan([tmp_path])) == ["not an ordinary file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read everything")
def test_what_may_not_be_read_is_listed(tmp_path):
    (path,) = write_series(tmp_path / "file", count=1)
    path.chmod(0)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    assert reasons(scan([tmp_path])) == [
        "cannot be read (Permission denied)",
        "folder cannot be read (Permission denied)",
    ]


# --- archives and indexes ----------------------------------------------------------------------------------------


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_zip_is_read_without_being_unpacked(tmp_path):
    paths = write_series(tmp_path / "files", count=3)
    archive = zip_of(tmp_path / "study.zip", {f"../../{path.name}": path.read_bytes() for path in paths})
    found = scan([archive])
    frame = only_series(found).frames[0]
    assert len(only_series(found).frames) == 3
    assert frame.source.name.startswith("study.zip/../../")
    with open_source(frame.source) as stream:
        stream.seek(frame.layout.offset_bytes)
        assert len(stream.read(frame.layout.length_bytes)) == 16 * 16 * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", "study.zip"]


def test_a_zip_inside_a_folder_is_read_too(tmp_path):
    (path,) = write_series(tmp_path / "files", count=1)
    archives = tmp_path / "archives"
    archives.mkdir()
    zip_of(archives / "a.zip", {"1": path.read_bytes()})
    assert only_series(scan([archives])).frames[0].source.name == "a.zip/1"


def test_a_broken_zip_and_its_broken_members_are_listed(tmp_path):
    (path,) = write_series(tmp_path / "files", count=1)
    archive = zip_of(tmp_path / "in.zip", {"good": path.read_bytes(), "locked": b"x" * 100, "torn": b"y" * 5000})
    content = bytearray(archive.read_bytes())
    directory = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)  # the second member's entry
    content[directory + 8] |= 1  # says it is encrypted (APPNOTE 4.4.4, bit 0)
    torn = content.index(b"torn") + 4
    content[torn : torn + 8] = b"\xff" * 8
    archive.write_bytes(content)
    found = scan([archive])
    assert len(only_series(found).frames) == 1
    assert reasons(found) == ["compressed bytes are damaged", "encrypted in the zip archive"]
    archive.write_bytes(content[:300])
    assert reasons(scan([archive])) == ["zip archive cannot be read (BadZipFile)"]


def write_dicomdir(folder: Path, *references: list[str]) -> Path:
    records = []
    for parts in references:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        with disable_value_validation():  # a disc may hold any name
            record.ReferencedFileID = parts
        records.append(record)
    index = Dataset()
    index.DirectoryRecordSequence = Sequence(records)
    index.file_meta = FileMetaDataset()
    index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.file_meta.MediaStorageSOPInstanceUID = uid("index")
    index.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


def test_a_dicomdir_leads_to_its_files_and_no_further(tmp_path):
    write_series(tmp_path / "outside", count=1)
    disc = tmp_path / "Disc"
    (inside, _unlisted) = write_series(disc / "IMAGES", count=2)
    inside.rename(disc / "IMAGES" / "IM1")
    (disc / "LINK").symlink_to(tmp_path / "outside")
    other = next((tmp_path / "outside").iterdir()).name
    index = write_dicomdir(
        disc, ["IMAGES", "IM1"], ["images", "IM9"], ["..", "outside", other], ["LINK", other], ["/etc/passwd"]
    )
    found = scan([index])
    assert [frame.source.name for frame in only_series(found).frames] == ["IMAGES/IM1"]
    assert reasons(found) == [
        "listed in the DICOMDIR, but not there",
        "the DICOMDIR points out of its folder",
        "the DICOMDIR points out of its folder",
        "the DICOMDIR points out of its folder",
    ]


def test_a_dicomdir_met_in_a_folder_is_only_listed(tmp_path):
    write_series(tmp_path, count=2)
    write_dicomdir(tmp_path, ["NOT", "THERE"])
    found = scan([tmp_path])
    assert len(only_series(found).frames) == 2
    assert reasons(found) == ["DICOMDIR index"]


def test_a_broken_dicomdir_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"DICOMDIR cannot be read .*Name its folder instead"):
        scan([tmp_path / "DICOMDIR"])


# --- pixels' place -----------------------------------------------------------------------------------------------


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


# --- headers -----------------------------------------------------------------------------------------------------


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


# --- worth reading or not ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, ""),
        ({"image_type": ("DERIVED", "PRIMARY", "AXIAL")}, ""),
        ({"image_type": ("DERIVED", "SECONDARY", "PROCESSED")}, ""),
        ({"description": "Low dose chest"}, ""),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "scout (localizer)"),
        ({"description": "Topogram 0.6 T20f"}, "scout (localizer)"),
        ({"description": "Dose Report"}, "dose or protocol page"),
        ({"image_type": ("DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT")}, "dose or protocol page"),
        (
            {"image_type": ("DERIVED", "SECONDARY", "SCREEN SAVE")},
            "secondary capture (a picture of a screen or a paper)",
        ),
        ({"sop_class": SecondaryCaptureImageStorage}, CAPTURE),
        ({"sop_class": SecondaryCaptureImageStorage, "modality": "DX"}, ""),
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, "derived from other images (MPR)"),
        ({"image_type": ("DERIVED", "SECONDARY", "AXIAL", "MIP")}, "derived from other images (MIP)"),
        ({"extra": {"PhotometricInterpretation": "PALETTE COLOR"}}, "colour picture (PALETTE COLOR)"),
        ({"modality": "US"}, CAPTURE),
        ({"modality": "PT", "sop_class": "1.2.840.10008.5.1.4.1.1.128"}, "modality PT, read only when asked for"),
    ],
)
def test_series_say_why_they_are_not_worth_reading(tmp_path, options, reason):
    assert only_series(scan_instance(tmp_path, **options)).not_read_because == reason


def test_objects_that_are_no_images_are_listed(tmp_path):
    report = make_instance(stored=SMALL, sop_class=BasicTextSRStorage, modality="SR", extra={"PixelData": None})
    write_dataset(tmp_path / "sr", report)
    segmentation = make_instance(stored=SMALL, sop_class="1.2.840.10008.5.1.4.1.1.66.4", sop_uid=uid("seg"))
    write_dataset(tmp_path / "seg", segmentation)
    found = scan([tmp_path])
    assert reasons(found) == ["not an image (Basic Text SR Storage)", "not an image (Segmentation Storage)"]
    assert found.studies[0].series == ()


def test_a_scout_stored_among_axial_slices_is_left_out_alone(tmp_path):
    write_series(tmp_path, count=3)
    scout = make_instance(
        stored=SMALL, series_uid=uid("study", "series"), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")
    )
    write_dataset(tmp_path / "scout", scout)
    found = scan([tmp_path])
    assert (len(only_series(found).frames), only_series(found).not_read_because) == (3, "")
    (unread,) = all_unread(found)
    assert (unread.source.name, unread.reason, unread.series_uid) == (
        "scout",
        "scout (localizer)",
        uid("study", "series"),
    )


def test_the_same_instance_twice_is_read_once(tmp_path):
    (path,) = write_series(tmp_path / "a", count=1)
    copy = tmp_path / "b" / "copy"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    found = scan([tmp_path])
    assert len(only_series(found).frames) == 1
    assert reasons(found) == [f"duplicate of a/{path.name} (same SOP Instance UID)"]


# --- identity ----------------------------------------------------------------------------------------------------


def test_studies_of_one_patient_share_a_key_that_tells_nothing(tmp_path):
    write_series(tmp_path, count=1, study="one", patient_id="MRN 77")
    write_series(tmp_path, count=1, study="two", series="other", patient_id="MRN 77")
    write_series(tmp_path, count=1, study="three", series="third", patient_id="MRN 78")
    keys = [study.patient.key for study in scan([tmp_path]).studies]
    assert sorted(Counter(keys).values()) == [1, 2]
    assert all(len(key) == 12 and int(key, 16) >= 0 for key in keys)


def test_studies_without_any_identity_do_not_mix(tmp_path):
    for date in ("20240101", "20240102"):
        extra = {"StudyInstanceUID": None, "StudyDate": date, "PatientID": None, "PatientName": None}
        write_dataset(tmp_path / date, make_instance(stored=SMALL, sop_uid=uid(date), extra=extra))
    newer, older = scan([tmp_path]).studies
    assert (newer.date, older.date) == ("20240102", "20240101")
    assert newer.key != older.key and newer.patient.key != older.patient.key


@pytest.mark.parametrize(
    ("charset", "name", "shown"),
    [
        (None, "Doe^Jane^Q", "Doe, Jane Q"),
        (None, "Doe", "Doe"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "Yamada, Tarou (山田 太郎)"),
        ("ISO_IR 192", "=王^小东", "王 小东"),
        ("ISO_IR 192", "Do\u202ee\x1b^J\u200fane\x07", "Doe, Jane"),
        ("ISO_IR 192", "<b>Doe</b>^", "<b>Doe</b>"),  # escaping is the page's work
    ],
)
def test_names_of_any_script_are_shown_without_control_characters(tmp_path, charset, name, shown):
    extra = {"SpecificCharacterSet": charset} if charset else {}
    found = scan_instance(tmp_path, patient_name=name, extra=extra)
    assert found.studies[0].patient.name == shown


# --- hostile and broken ------------------------------------------------------------------------------------------


def test_endlessly_nested_sequences_are_listed(tmp_path):
    start = bytes.fromhex("08001111") + b"SQ\0\0\xff\xff\xff\xff"  # (0008,1111) of undefined length
    item = bytes.fromhex("feff00e0ffffffff")
    path = write_dataset(tmp_path / "a", make_instance(stored=SMALL))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\x08\0\x08\0CS")] + (start + item) * 5000)
    assert reasons(scan([tmp_path])) == ["sequences nested too deeply"]


def test_an_endless_deflate_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("medvl.dicom.header.MAX_INFLATED_BYTES", 10_000)
    write_series(
        tmp_path, count=1, pixels=np.zeros((100, 100), np.int16), transfer_syntax=DeflatedExplicitVRLittleEndian
    )
    assert reasons(scan([tmp_path]))[0].startswith("deflated dataset larger than")


def test_an_element_that_claims_gigabytes_is_refused(tmp_path):
    path = write_dataset(tmp_path / "a", make_instance(stored=SMALL), ImplicitVRLittleEndian)
    name = bytes.fromhex("10001000")
    content = path.read_bytes()
    path.write_bytes(content.replace(name + b"\x08\0\0\0", name + b"\x08\0\0\x70"))
    assert reasons(scan([tmp_path])) == [f"element (0010,0010) claims {0x70000008} bytes"]


@pytest.fixture(scope="module")
def real_bytes(tmp_path_factory) -> dict[str, bytes]:
    """One file of each encoding, to be broken."""
    folder = tmp_path_factory.mktemp("whole")
    stored = np.zeros((3, 4, 4), np.int16)
    enhanced = make_enhanced_ct(stored, positions=[(0, 0, 5.0), (0, 0, 3.0), (0, 0, 1.0)])
    paths = [write_dataset(folder / "enhanced", enhanced)]
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless):
        paths += write_series(folder / syntax, count=1, rows=4, columns=4, transfer_syntax=syntax)
    return {str(path): path.read_bytes() for path in paths}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_no_broken_file_stops_the_scan_or_goes_unaccounted(tmp_path, real_bytes, rng: random.Random):
    content = bytearray(rng.choice(sorted(real_bytes.values())))
    for _ in range(rng.randrange(1, 12)):
        content[rng.randrange(128, len(content))] = rng.randrange(256)
    (tmp_path / "a").write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
    found = scan([tmp_path])
    frames = sum(len(series.frames) for study in found.studies for series in study.series)
    assert frames + len(all_unread(found)) >= 1


def test_every_real_odd_file_is_accounted_for_once(tmp_path):
    if not REAL_EDGE.exists():
        pytest.skip("the folder of real DICOM files is not beside this checkout")
    with tarfile.open(REAL_EDGE) as archive:
        archive.extractall(tmp_path, filter="data")
    found = scan([tmp_path])
    in_series = {f.source.name for study in found.studies for series in study.series for f in series.frames}
    unread = [one.source.name for one in all_unread(found)]
    assert found.file_count == 261
    assert len(in_series) + len(set(unread) - in_series) == 261
    assert not any(reason.startswith("broken") for reason in reasons(found))


# --- the whole ---------------------------------------------------------------------------------------------------


def test_nothing_to_read_names_the_commonest_reasons(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("no image")
    write_series(tmp_path, count=2, description="Scout")
    with pytest.raises(InputError, match=r"among 5 files \(not a DICOM file: 3; scout \(localizer\): 2\)"):
        require_images(scan([tmp_path]))


def test_something_to_read_is_no_error(tmp_path):
    write_series(tmp_path, count=1)
    require_images(scan([tmp_path]))


def test_sources_are_found_in_an_order_that_does_not_depend_on_the_disk(tmp_path):
    write_series(tmp_path / "b", count=4)
    write_series(tmp_path / "a", count=4)
    names = [source.name for source in find_sources([tmp_path]) if not isinstance(source, Unread)]
    assert names == sorted(names)


def test_scanning_imports_no_heavy_library():
    code = "import sys, medvl.dicom.scan; print([m for m in ('torch', 'SimpleITK', 'jinja2') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
