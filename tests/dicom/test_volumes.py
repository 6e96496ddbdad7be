from __future__ import annotations

import gzip
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medvl.dicom import volumes
from medvl.dicom.decode_pool import DecodePool
from medvl.dicom.frames import FrameError, load_rescaled, load_stored
from medvl.dicom.gate import note_stacks
from medvl.dicom.scan import scan
from medvl.dicom.shelves import HeaderCache
from medvl.records import Window
from tests.dicom.scanning import all_unread, only_series, reasons
from tests.dicom.volume_files import (
    META_HEADER,
    NRRD_HEADER,
    bright_places,
    meta_bytes,
    nifti_bytes,
    noise,
    nrrd_bytes,
    numbers,
    stacks_of,
    write_volume,
)

ABOVE_NOISE = Window(600, 800)
SLICES = noise(3, 4, 4)
NAMES_ANOTHER = "names another file for its voxels, as only .mhd and .nhdr may"
FORMATS = ["v.nii", "v.nii.gz", "v.nrrd", "v.nhdr", "v.mha", "v.mhd"]
# Axes of columns, rows and slices; where voxel (5, 2, 3) lies with 2, 3 and 4 mm between voxels from (10, −20, 30).
ORIENTATIONS = {
    "as DICOM": (((1, 0, 0), (0, 1, 0), (0, 0, 1)), (20, -14, 42), "axial"),
    "as NIfTI": (((-1, 0, 0), (0, -1, 0), (0, 0, 1)), (0, -26, 42), "axial"),
    "mirrored": (((1, 0, 0), (0, 1, 0), (0, 0, -1)), (20, -14, 18), "axial"),
    "sagittal": (((0, 1, 0), (0, 0, -1), (1, 0, 0)), (22, -10, 24), "sagittal"),
    "coronal": (((1, 0, 0), (0, 0, -1), (0, -1, 0)), (20, -32, 24), "coronal"),
    "oblique": (((1, 0, 0), (0, 0.8, 0.6), (0, -0.6, 0.8)), (20, -22.4, 43.2), "oblique"),
}


def with_bright_voxel(column: int, row: int, number: int) -> np.ndarray:
    values = noise(6, 10, 12)
    values[number, row, column] = 1000
    return values


def codes(path: Path) -> set[str]:
    series = only_series(scan([path], processes=1))
    return {note.code for stack in note_stacks(series, stacks_of(path), ()) for note in stack.notes}


# --- place -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_voxel_lies_in_the_picture_where_it_lies_in_the_patient(tmp_path, name, orientation):
    axes, place, plane = ORIENTATIONS[orientation]
    values = with_bright_voxel(5, 2, 3)
    write_volume(tmp_path / name, values, axes=axes, spacing=(2, 3, 4), origin=(10, -20, 30))
    (stack,) = stacks_of(tmp_path / name)
    [(_, found)] = bright_places(stack, ABOVE_NOISE)
    assert stack.plane == plane
    assert stack.slice_spacing_mm == pytest.approx(4, abs=1e-4)
    assert found == pytest.approx(place, abs=0.1)


def test_left_stays_left_in_a_nifti_file_whose_columns_run_to_the_right(tmp_path):
    values = noise(3, 8, 8)
    values[1, 4, 1] = 1000  # 10 mm to the left, since x of NIfTI is −10
    (tmp_path / "v.nii").write_bytes(
        nifti_bytes(values, rows=((4, 0, 0, -14), (0, 4, 0, -14), (0, 0, 4, 0)), steps=(4, 4, 4))
    )
    (stack,) = stacks_of(tmp_path)
    [((x, y), lps)] = bright_places(stack, ABOVE_NOISE)
    assert lps == pytest.approx((10, -2, 4), abs=0.1)  # row 4 is 2 mm before the middle
    assert (x, y) == pytest.approx(
        (260, 140), abs=1
    )  # of 320: the seventh of eight columns, the fourth row from the top


def test_a_big_endian_file_has_the_place_and_the_values_of_a_little_endian_one(tmp_path):
    (tmp_path / "big.nii").write_bytes(nifti_bytes(SLICES, order=">"))
    (tmp_path / "little.nii").write_bytes(nifti_bytes(SLICES))
    big, little = (only_series(scan([tmp_path / name])).frames[2] for name in ("big.nii", "little.nii"))
    assert (big.plane, big.pixel_spacing_mm) == (little.plane, little.pixel_spacing_mm)
    np.testing.assert_array_equal(load_stored(big), SLICES[2])


def test_slices_are_read_from_the_head_down_however_they_are_stored(tmp_path):
    write_volume(tmp_path / "up.nii", noise(3, 8, 8))
    write_volume(tmp_path / "down.mha", noise(3, 8, 8), axes=((1, 0, 0), (0, 1, 0), (0, 0, -1)))
    assert [numbers(stacks_of(tmp_path / name)[0].slices) for name in ("up.nii", "down.mha")] == [[2, 1, 0], [0, 1, 2]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.nii", nifti_bytes(SLICES, placed=False)),
        ("v.nii.gz", gzip.compress(nifti_bytes(SLICES, placed=False))),
        ("v.mha", meta_bytes("ElementSpacing = 1 1 1")),
        ("v.nrrd", nrrd_bytes("spacings: 1 1 1")),
        ("v.nrrd", nrrd_bytes("space: scanner-xyz", "space directions: (1,0,0) (0,1,0) (0,0,1)")),
    ],
    ids=["nii", "nii.gz", "mha", "nrrd", "nrrd of a scanner"],
)
def test_without_orientation_in_the_file_no_side_is_made_up(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (stack,) = stacks_of(tmp_path)
    assert (stack.plane, stack.slice_spacing_mm) == ("unknown", None)
    assert numbers(stack.slices) == [0, 1, 2]
    assert codes(tmp_path) == {"no_dicom_header", "no_position"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.nii", nifti_bytes(SLICES, steps=(0, 0, 0))),
        ("v.nii.gz", gzip.compress(nifti_bytes(SLICES, steps=(1, 1, 0)))),
        ("v.mha", meta_bytes()),
        ("v.nrrd", nrrd_bytes()),
    ],
    ids=["nii", "nii.gz", "mha", "nrrd"],
)
def test_without_spacing_in_the_file_no_millimetre_is_made_up(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (stack,) = stacks_of(tmp_path)
    assert stack.slices[0].frame.pixel_spacing_mm is None
    assert "no_pixel_spacing" in codes(tmp_path)


def test_a_flat_picture_is_one_slice_without_a_place(tmp_path):
    flat = meta_bytes("ElementSpacing = 2 3").replace(b"NDims = 3", b"NDims = 2").replace(b"4 4 3", b"4 4")
    (tmp_path / "v.mha").write_bytes(flat)
    (stack,) = stacks_of(tmp_path)
    (only,) = stack.slices
    assert (only.frame.plane, only.frame.pixel_spacing_mm) == (None, (3.0, 2.0))
    assert (only.frame.rows, only.frame.columns) == (4, 4)


def test_axes_that_are_not_at_right_angles_are_refused(tmp_path):
    (tmp_path / "v.nrrd").write_bytes(nrrd_bytes("space: LPS", "space directions: (1,0,0) (0.5,1,0) (0,0,1)"))
    (tmp_path / "v.nii").write_bytes(nifti_bytes(SLICES, rows=((1, 0.5, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0))))
    assert reasons(scan([tmp_path])) == ["its axes are not at right angles"] * 2


# --- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16", "uint32", "int64", "float32", "float64"])
def test_every_slice_has_the_values_that_were_written(tmp_path, name, kind):
    values = noise(3, 5, 4).astype(kind)
    write_volume(tmp_path / name, values, compressed=name == "v.mha")
    frames = only_series(scan([tmp_path / name])).frames
    loaded = np.stack([load_stored(frame) for frame in frames])
    assert loaded.dtype == values.dtype
    np.testing.assert_array_equal(loaded, values)


def test_the_scale_of_a_nifti_file_is_applied(tmp_path):
    values = noise(3, 4, 4)
    (tmp_path / "v.nii").write_bytes(nifti_bytes(values, scaling=(2, -10)))
    frame = only_series(scan([tmp_path])).frames[1]
    np.testing.assert_array_equal(load_rescaled(frame)[0], 2.0 * values[1] - 10)


def test_values_like_those_of_ct_are_taken_for_hu_and_that_is_said(tmp_path):
    values = np.where(noise(3, 20, 20) < 30, -1000, 40).astype(np.int16)
    write_volume(tmp_path / "v.nii.gz", values)
    series = only_series(scan([tmp_path]))
    assert (series.modality, series.frames[0].rescale_unit) == ("CT", "HU")
    assert codes(tmp_path) == {"guessed_ct"}


@pytest.mark.parametrize("lowest", [0, -500])
def test_other_values_are_of_no_modality_and_that_is_said(tmp_path, lowest):
    write_volume(tmp_path / "v.nii.gz", noise(3, 20, 20, highest=1000) + np.int16(lowest))
    series = only_series(scan([tmp_path]))
    assert (series.modality, series.frames[0].rescale_unit, series.not_read_because) == ("", "", "")
    assert codes(tmp_path) == {"no_dicom_header"}


def test_a_label_map_is_not_read_unless_asked_for(tmp_path):
    labels = np.zeros((3, 20, 20), np.uint8)
    labels[:, 5:15, 5:10], labels[:, 5:15, 10:15] = 1, 7
    write_volume(tmp_path / "v.nii.gz", labels)
    write_volume(tmp_path / "empty.nrrd", np.zeros((3, 20, 20), np.uint8))
    found = [series for study in scan([tmp_path]).studies for series in study.series]
    assert {series.not_read_because for series in found} == {
        "a label map, as far as its values tell, read only when asked for"
    }
    assert [len(series.frames) for series in found] == [3, 3]


def test_colours_and_vectors_are_listed_slice_by_slice(tmp_path):
    write_volume(tmp_path / "colour.nii", noise(3, 4, 4, 3).astype(np.uint8), vectors=True)
    write_volume(tmp_path / "field.nrrd", noise(3, 4, 4, 3).astype(np.float32), vectors=True)
    found = {series.description: series for study in scan([tmp_path]).studies for series in study.series}
    assert {name: series.not_read_because for name, series in found.items()} == {
        "colour": "colour picture (RGB)",
        "field": "vectors, not grey values",
    }
    assert [len(series.frames) for series in found.values()] == [3, 3]
    with pytest.raises(FrameError, match=r"field\.nrrd, frame 1: its voxels are vectors"):
        load_stored(found["field"].frames[0])


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.nrrd", "v.mha"])
def test_volumes_over_time_become_stacks(tmp_path, name):
    write_volume(tmp_path / name, noise(2, 3, 4, 4))
    found = stacks_of(tmp_path)
    if name != "v.nrrd":  # SimpleITK writes no orientation there
        assert [stack.label for stack in found] == ["phase 1 of 2", "phase 2 of 2"]
        assert [numbers(stack.slices) for stack in found] == [[2, 1, 0], [5, 4, 3]]
    assert sorted(number for stack in found for number in numbers(stack.slices)) == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(load_stored(found[-1].series.frames[4]), noise(2, 3, 4, 4)[1, 1])


# --- identity ----------------------------------------------------------------------------------------------------


def test_each_file_is_a_nameless_study_of_its_own_wherever_it_lies(tmp_path):
    for name in ("a/one.nii", "b/other name.nii"):
        write_volume(tmp_path / name, noise(3, 4, 4))
    (here,), (there,) = (scan([tmp_path / folder]).studies for folder in "ab")
    assert (here.patient.id, here.patient.name, here.date) == ("", "", "")
    assert (here.uid, here.key, here.patient.key) == (there.uid, there.key, there.patient.key)
    assert here.uid.startswith("2.25.")
    assert len({here.uid, here.series[0].uid, here.series[0].frames[0].sop_instance_uid}) == 3


def test_of_two_equal_files_one_is_a_duplicate(tmp_path):
    for name in ("a.nii", "b.nii"):
        write_volume(tmp_path / name, noise(3, 4, 4))
    assert reasons(scan([tmp_path])) == ["duplicate of a.nii (same SOP Instance UID)"]


def test_what_is_remembered_of_a_volume_is_what_was_read(tmp_path):
    write_volume(tmp_path / "in" / "v.nii.gz", noise(2, 3, 4, 4))
    os.utime(tmp_path / "in" / "v.nii.gz", (1, 1))
    cache = HeaderCache(tmp_path / "cache")
    first = scan([tmp_path / "in"], cache=cache)
    assert scan([tmp_path / "in"], cache=cache) == first == scan([tmp_path / "in"])


def test_a_header_is_read_again_each_time_when_its_voxels_lie_in_another_file(tmp_path):
    cache = HeaderCache(tmp_path / "cache")
    write_volume(tmp_path / "in" / "v.mhd", noise(3, 4, 4))
    first = scan([tmp_path / "in" / "v.mhd"], cache=cache)
    raw = tmp_path / "in" / "v.raw"
    raw.write_bytes(raw.read_bytes()[: -4 * 4 * 2])
    second = scan([tmp_path / "in" / "v.mhd"], cache=cache)
    assert [len(only_series(found).frames) for found in (first, second)] == [3, 2]


# --- broken and hostile files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v.nii", "v.mha", "v.mhd"])
def test_slices_behind_the_end_of_the_file_are_listed_and_the_others_read(tmp_path, name):
    write_volume(tmp_path / name, noise(5, 4, 4))
    data = tmp_path / name.replace("mhd", "raw")
    data.write_bytes(data.read_bytes()[:-1])
    found = scan([tmp_path / name])
    assert [len(only_series(found).frames)] == [4]
    [unread] = all_unread(found)
    assert unread.reason == "truncated: the pixels of 4 of 5 frames are there"
    assert (unread.frame_index, unread.frame_count, unread.lost) == (4, 1, True)
    np.testing.assert_array_equal(load_stored(only_series(found).frames[3]), noise(5, 4, 4)[3])


def test_what_a_compressed_file_holds_up_to_its_break_is_read(tmp_path):
    values = noise(40, 256, 256, highest=30000)  # 128 KiB each
    content = gzip.compress(nifti_bytes(values), 1)
    (tmp_path / "v.nii.gz").write_bytes(content[: len(content) // 2])
    found = scan([tmp_path])
    [unread] = all_unread(found)
    series = only_series(found)
    assert len(series.frames) + unread.frame_count == 40
    assert 8 <= len(series.frames) <= 20
    for number, frame in enumerate(series.frames):
        np.testing.assert_array_equal(load_stored(frame), values[number])


def test_a_small_compressed_file_that_breaks_off_is_listed_with_all_its_slices(tmp_path):
    content = gzip.compress(nifti_bytes(noise(5, 32, 32)))
    (tmp_path / "v.nii.gz").write_bytes(content[:-30])
    [unread] = all_unread(scan([tmp_path]))
    assert (unread.reason, unread.frame_count) == ("truncated: the pixels of 0 of 5 frames are there", 5)


@pytest.mark.parametrize("name", ["v.nii.gz", "v.nrrd", "v.mha"])
def test_compressed_voxels_that_are_damaged_are_refused(tmp_path, name):
    path = write_volume(tmp_path / name, noise(20, 32, 32), compressed=True)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    (reason,) = reasons(scan([tmp_path]))
    assert reason in (
        "its compressed bytes are damaged",
        "SimpleITK cannot read it: it is damaged, or of an unknown kind",
    )


def test_sizes_that_no_file_can_have_are_refused_before_anything_is_allocated(tmp_path):
    (tmp_path / "a.mha").write_bytes(meta_bytes().replace(b"4 4 3", b"65535 65535 65535"))
    (tmp_path / "b.nii").write_bytes(nifti_bytes(SLICES, size=(2000, 2000, 2000)))
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(nifti_bytes(SLICES, size=(2000, 2000, 2000))))
    (tmp_path / "d.nrrd").write_bytes(nrrd_bytes().replace(b"4 4 3", b"2000 2000 2000"))
    assert reasons(scan([tmp_path])) == [
        "impossible size (65535 × 65535 × 65535)",
        "it would take 16000000000 bytes once read",
        "it would take 16000000000 bytes once read",
        "truncated: the pixels of 0 of 2000 frames are there",
    ]


def test_a_compressed_file_that_would_inflate_without_end_is_read_no_further_than_its_header_claims(tmp_path):
    bomb = gzip.compress(nifti_bytes(noise(3, 4, 4)) + bytes(1 << 28))
    (tmp_path / "v.nii.gz").write_bytes(bomb)
    assert len(only_series(scan([tmp_path])).frames) == 3


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("../secret.raw", "names a file out of its folder for its voxels"),
        ("/etc/hostname", "names a file out of its folder for its voxels"),
        ("link.raw", "names a file out of its folder for its voxels"),
        ("absent.raw", "the file that it names for its voxels is not there"),
        ("slice%03d.raw 1 3 1", "its voxels lie in several files"),
        ("LIST", "its voxels lie in several files"),
        ("LIST 2", "its voxels lie in several files"),
    ],
)
@pytest.mark.parametrize("name", ["v.mhd", "v.nhdr"])
def test_a_header_leads_to_one_file_in_its_own_folder_or_nowhere(tmp_path, name, named, reason):
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(noise(3, 4, 4).tobytes())
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    last = f"{META_HEADER}ElementDataFile" if name == "v.mhd" else f"{NRRD_HEADER}data file"
    (folder / name).write_text(f"{last}: {named}\n")
    assert reasons(scan([folder / name])) == [reason]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("v.mha", f"{META_HEADER}ElementDataFile = v.raw\n", NAMES_ANOTHER),
        ("v.nrrd", f"{NRRD_HEADER}datafile: v.raw\n", NAMES_ANOTHER),
        ("v.nhdr", f"{NRRD_HEADER}data file: v.raw\nDATAFILE: w.raw\n", "its header can be read in two ways"),
        ("v.mhd", f"{META_HEADER}Comment = ElementDataFile = v.raw\n", "its header can be read in two ways"),
        ("v.mhd", f"{META_HEADER}Comment = a\rElementDataFile = v.raw\n", "control characters in its header"),
        ("v.mhd", META_HEADER, "no ElementDataFile within 65536 bytes"),
        ("v.nhdr", NRRD_HEADER + "# and so on\n" * 6000, "no end of its header within 65536 bytes"),
    ],
)
def test_a_header_that_may_mean_several_things_is_refused(tmp_path, name, content, reason):
    (tmp_path / "v.raw").write_bytes(noise(3, 4, 4).tobytes())
    (tmp_path / name).write_bytes(content.encode())
    assert reasons(scan([tmp_path / name])) == [reason]


def test_a_volume_in_a_zip_archive_is_listed(tmp_path):
    write_volume(tmp_path / "v.nii", noise(3, 4, 4))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.write(tmp_path / "v.nii", "deep/v.nii")
    assert reasons(scan([tmp_path / "in.zip"])) == ["a volume inside a zip archive"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", [b"", b"\0" * 400, b"NRRD0004\n", b"not what it says"])
def test_files_that_are_nothing_of_the_kind_are_listed(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    found = scan([tmp_path])
    assert (found.file_count, len(found.unread), found.studies) == (1, 1, ())


def test_a_file_that_brings_simpleitk_down_costs_no_more_than_itself(tmp_path, monkeypatch):
    write_volume(tmp_path / "v.nii", noise(3, 4, 4))
    monkeypatch.setattr(volumes, "DecodePool", lambda _command: DecodePool((sys.executable, "-c", "")))
    volumes._helper_of.cache_clear()
    try:
        assert reasons(scan([tmp_path])) == ["SimpleITK crashed over it, or took more than 120 s"]
    finally:
        volumes._helper_of.cache_clear()


def test_a_volume_that_shrinks_after_the_scan_is_a_frame_error(tmp_path):
    write_volume(tmp_path / "v.nii", noise(5, 4, 4))
    frame = only_series(scan([tmp_path])).frames[4]
    write_volume(tmp_path / "v.nii", noise(2, 4, 4))
    write_volume(tmp_path / "w.nii", noise(2, 3, 3))
    scan([tmp_path / "w.nii"])  # takes the place of the first one in the helper
    with pytest.raises(FrameError, match=r"v\.nii, frame 5"):
        load_stored(frame)
