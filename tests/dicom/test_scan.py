from __future__ import annotations

import random
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medvl.dicom.scan import require_images, scan
from medvl.dicom.source import find_sources
from medvl.errors import InputError
from medvl.records import Unread
from tests.builders import make_enhanced_ct, make_instance, uid, write_dataset, write_series
from tests.dicom.scanning import SMALL, all_unread, reasons, scan_instance

REAL_EDGE = Path(__file__).parents[3] / "shared" / "data" / "edge.tar.xz"

# --- identity ---------------------------------------------------------------------------------------------------------


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
    ("charset", "name", "read"),
    [
        (None, "Doe^Jane^Q", "Doe^Jane^Q"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 192", "=王^小东", "=王^小东"),
        ("ISO_IR 192", "Do\u202ee\x07^J\u200fane\x07", "Doe^Jane"),
        ("ISO_IR 192", "<b>Doe</b>^", "<b>Doe</b>^"),  # escaping is the page's work
    ],
)
def test_names_of_any_script_are_read_without_control_characters(tmp_path, charset, name, read):
    extra = {"SpecificCharacterSet": charset} if charset else {}
    found = scan_instance(tmp_path, patient_name=name, extra=extra)
    assert found.studies[0].patient.name == read


# --- hostile and broken -----------------------------------------------------------------------------------------------


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


# --- the whole --------------------------------------------------------------------------------------------------------


def test_nothing_to_read_names_the_commonest_reasons(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("no image")
    write_series(tmp_path, count=2, description="Scout")
    with pytest.raises(InputError, match=r"among 5 files \(not a DICOM file: 3; scout \(localizer\): 2\)"):
        require_images(scan([tmp_path]))


def test_something_to_read_is_no_error(tmp_path):
    write_series(tmp_path, count=1)
    assert require_images(scan([tmp_path])) is None


def test_sources_are_found_in_an_order_that_does_not_depend_on_the_disk(tmp_path):
    write_series(tmp_path / "b", count=4)
    write_series(tmp_path / "a", count=4)
    names = [source.name for source in find_sources([tmp_path]) if not isinstance(source, Unread)]
    assert names == sorted(names)


def test_scanning_imports_no_heavy_library():
    code = "import sys, medvl.dicom.scan; print([m for m in ('torch', 'SimpleITK', 'jinja2') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_two_patients_under_one_study_uid_never_share_a_report(tmp_path):
    for patient in ("A", "B"):
        extra = {"StudyInstanceUID": uid("shared"), "PatientID": patient}
        write_dataset(tmp_path / patient, make_instance(stored=SMALL, sop_uid=uid(patient), extra=extra))
    studies = scan([tmp_path]).studies
    assert sorted(study.patient.id for study in studies) == ["A", "B"]
    assert [len(study.series[0].frames) for study in studies] == [1, 1]
