from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from medvl.dicom.scan import scan
from medvl.dicom.source import open_source
from medvl.errors import InputError
from tests.builders import uid, write_series
from tests.dicom.scanning import all_unread, only_series, reasons

# --- finding ----------------------------------------------------------------------------------------------------------


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


# --- archives and indexes ---------------------------------------------------------------------------------------------


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
