"""A quick way of reading a header must not be another way of understanding it: pydicom's own reading is the measure."""

from __future__ import annotations

import random
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from medvl.bundled import bundled_path
from medvl.dicom import header, instance
from medvl.dicom.attempt import try_instance
from medvl.dicom.bulk import quiet_pydicom
from medvl.dicom.elements import LONGEST_TEXT, numbers, texts
from medvl.dicom.plain import plain_values, read_plain_header
from medvl.dicom.source import find_sources
from medvl.records import Source
from medvl.text import clean_text
from tests.builders import NATIVE, make_instance, write_dataset, write_series
from tests.dicom.scanning import SMALL

REAL = Path(__file__).parents[3] / "shared" / "data"
TAGS = instance._TAGS


@pytest.fixture(autouse=True)
def as_in_a_scan():
    with quiet_pydicom():
        yield


def read_both_ways(sources, monkeypatch):
    quickly = [try_instance(source) for source in sources]
    with monkeypatch.context() as patch:
        patch.setattr(header, "read_plain_header", lambda *_: None)
        return quickly, [try_instance(source) for source in sources]


@pytest.mark.parametrize("name", ["abdomen_ct", "abdomen_ct_j2k", "head_ct", "xray", "edge"])
def test_every_real_header_reads_as_pydicom_reads_it(tmp_path, monkeypatch, name):
    archive = REAL / f"{name}.tar.xz"
    if not archive.exists():
        pytest.skip("the folder of real DICOM files is not beside this checkout")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    sources = [source for source in find_sources([tmp_path]) if isinstance(source, Source)]
    quickly, slowly = read_both_ways(sources, monkeypatch)
    assert quickly == slowly


def test_most_headers_are_plain():
    for path in (bundled_path("sample_data") / "chest_ct").glob("*.dcm"):
        with path.open("rb") as stream:
            assert read_plain_header(stream, TAGS) is not None


@pytest.mark.parametrize("syntax", NATIVE)
def test_every_native_encoding_reads_as_pydicom_reads_it(tmp_path, monkeypatch, syntax):
    paths = write_series(tmp_path, count=2, transfer_syntax=syntax)
    with paths[0].open("rb") as stream:
        assert (read_plain_header(stream, TAGS) is not None) == (syntax in NATIVE[:2])  # not big endian, not deflated
    quickly, slowly = read_both_ways([Source(path, path.name) for path in paths], monkeypatch)
    assert quickly == slowly


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), st.sampled_from(NATIVE))
def test_a_broken_header_read_quickly_is_read_alike(tmp_path, rng: random.Random, syntax):
    path = write_dataset(tmp_path / "a", make_instance(stored=SMALL), syntax)
    content = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 4)):
        content[rng.randrange(128, len(content))] = rng.randrange(256)
    plain = read_plain_header(BytesIO(content), TAGS)
    if plain is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(header, "read_plain_header", lambda *_: None)
        slow = header.read_header(BytesIO(content), len(content), TAGS)
    assert slow.transfer_syntax_uid == plain.transfer_syntax_uid
    assert slow.pixels is not None and slow.pixels.offset_bytes == plain.pixels_offset_bytes
    for keyword in ("PatientName", "StudyDate", "SeriesDescription", "ImageType", "SOPInstanceUID", "PatientID"):
        assert texts(slow.dataset, keyword) == texts(plain.dataset, keyword)
    for keyword in ("Rows", "BitsStored", "ImagePositionPatient", "RescaleIntercept", "InstanceNumber", "PixelSpacing"):
        assert numbers(slow.dataset, keyword) == numbers(plain.dataset, keyword)


TEXT_VRS = ("CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT")
NUMBER_VRS = ("DS", "IS")
SPELLINGS = st.text(st.sampled_from("0123456789.+-eE \\^=aZ\0<|_"), max_size=12).map(str.encode)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(TEXT_VRS + NUMBER_VRS), SPELLINGS)
def test_a_value_called_plain_is_what_pydicom_makes_of_it(vr, value):
    values = plain_values(vr, value)
    if values is None or not value:
        return
    dataset = Dataset({Tag(0x00081030): RawDataElement(Tag(0x00081030), vr, len(value), value, 0, False, True)})
    if vr in NUMBER_VRS:
        assert tuple(map(float, values)) == numbers(dataset, "StudyDescription")
    assert tuple(clean_text(str(each), LONGEST_TEXT) for each in values) == texts(dataset, "StudyDescription")


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("LO", "Übung".encode("latin-1")),  # what this says depends on the character set
        ("LO", b"\x1b$Bab"),  # an escape to another one
        ("PN", b"Doe^Jane=x"),
        ("IS", b"1.5"),
        ("DS", b"1,5"),
        ("DS", b"nan"),
        ("SQ", b"\0\0"),
        ("US or SS", b"\0\0"),
        ("US", b"\0\0\0"),
    ],
)
def test_what_needs_more_than_ascii_is_left_to_pydicom(vr, value):
    assert plain_values(vr, value) is None


def test_sequences_without_length_are_passed_over(tmp_path):
    item, nested = Dataset(), Dataset()
    nested.CodeValue = "1"
    nested.is_undefined_length_sequence_item = True
    item.PurposeOfReferenceCodeSequence = [nested]
    item["PurposeOfReferenceCodeSequence"].is_undefined_length = True
    item.is_undefined_length_sequence_item = True
    for syntax in (ImplicitVRLittleEndian, NATIVE[1]):
        dataset = make_instance(stored=SMALL, extra={"ReferencedImageSequence": [item, nested]})
        dataset["ReferencedImageSequence"].is_undefined_length = True
        with write_dataset(tmp_path / syntax, dataset, syntax).open("rb") as stream:
            plain = read_plain_header(stream, TAGS)
        assert plain is not None and numbers(plain.dataset, "Rows") == (4.0,)


def test_a_header_longer_than_the_first_read_is_plain_all_the_same(tmp_path):
    dataset = make_instance(stored=SMALL, extra={"ImageComments": "x" * 9000, "PatientComments": "y" * 9000})
    with write_dataset(tmp_path / "a", dataset).open("rb") as stream:
        plain = read_plain_header(stream, TAGS)
    assert plain is not None and plain.pixels_length_bytes == 32


@pytest.mark.parametrize(
    ("compute", "keywords"),
    [(instance._study_facts, instance._STUDY + " " + instance._PATIENT), (instance._series_facts, instance._SERIES)],
    ids=["study", "series"],
)
def test_facts_are_remembered_by_every_element_they_are_made_of(tmp_path, compute, keywords):
    """Whatever else in the header changes, remembered facts must not; whatever they read must be in their key."""
    asked: set[str] = set()

    class Spy(Dataset):
        def get_item(self, key, *, keep_deferred=False):
            asked.add(Dataset.get_item(whole, key).keyword if key in whole else "")
            return None

    whole = Dataset()
    for keyword in keywords.split():
        setattr(whole, keyword, None)
    for keyword in ("Rows", "InstanceNumber", "ImageComments", "KVP", "Units", "CorrectedImage", "AcquisitionDate"):
        setattr(whole, keyword, None)
    compute(Spy())
    assert asked - {""} <= {*keywords.split(), "CorrectedImage"}
