"""The structured report, read back by pydicom and highdicom and judged by a validator that is not ours."""

import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="comes with medvl[export]")

import highdicom as hd
from highdicom.spatial import ImageToReferenceTransformer
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import UID, Comprehensive3DSRStorage

from medvl.errors import InputError
from medvl.export.structured import person_name, region_of, structured_report
from medvl.records import SecondLook
from medvl.report.review import Judgement
from tests.builders import make_enhanced_ct, uid, write_dataset
from tests.export.builders import (
    BRIGHT,
    CENTRE_LPS,
    a_block,
    a_review,
    block_pixels,
    exported,
    report_of,
)
from tests.report.examples import HOSTILE

DCIODVFY = shutil.which("dciodvfy")


def content_of(case, review=None):
    buffer = BytesIO()
    structured_report(case.reviewed(review), case.source()).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read_back(case, review=None):
    return hd.sr.srread(BytesIO(content_of(case, review)))


def planar_groups(report):
    return report.content.get_planar_roi_measurement_groups()


def texts(dataset):
    """Every text value of a report, at any depth."""
    own = [str(dataset.TextValue)] if "TextValue" in dataset else []
    return own + [text for item in dataset.get("ContentSequence", ()) for text in texts(item)]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("study"))


def test_a_box_is_counted_from_the_corner_of_the_first_pixel():
    # A box around the first pixel alone reaches half a pixel to either side of its centre.
    assert region_of((-0.5, -0.5, 0.5, 0.5)).tolist() == [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]


def test_a_box_of_a_flipped_picture_runs_the_same_way_round():
    assert region_of((0.5, 0.5, -0.5, -0.5)).tolist() == region_of((-0.5, -0.5, 0.5, 0.5)).tolist()


def test_the_box_lands_on_the_pixels_it_was_drawn_around(case):
    (group,) = planar_groups(read_back(case))
    region = group.roi
    left, top = region.value.min(axis=0).astype(int)
    right, bottom = region.value.max(axis=0).astype(int)
    assert (left, right, top, bottom) == (20, 28, 10, 14)
    source = dcmread(case.files[1])
    reference = region.ContentSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    inside = source.pixel_array[top:bottom, left:right]
    assert (inside == BRIGHT).all() and inside.size == (source.pixel_array == BRIGHT).sum()


def test_the_box_lands_on_the_findings_place_in_the_patient(case):
    (group,) = planar_groups(read_back(case))
    middle = group.roi.value[:4].mean(axis=0, keepdims=True)
    transform = ImageToReferenceTransformer.for_image(dcmread(case.files[1]))
    np.testing.assert_allclose(transform(middle)[0], CENTRE_LPS, atol=1e-6)


def test_a_finding_carries_code_site_side_and_tracking(case):
    (group,) = planar_groups(read_back(case))
    assert group.finding_type == codes.SCT.Nodule
    assert group.finding_sites[0].value == codes.SCT.Lung
    assert group.finding_sites[0].laterality == codes.SCT.Right
    assert group.tracking_identifier == "medvl finding 1"
    assert UID(group.tracking_uid).is_valid


def test_measurements_have_values_units_and_a_derivation(case):
    (group,) = planar_groups(read_back(case))
    found = {each.name.meaning: (each.value, each.unit.value) for each in group.get_measurements()}
    assert found == {
        "Long axis": (6.4, "mm"),
        "Short axis": (3.2, "mm"),
        "Depth": (2.5, "mm"),
        "Attenuation Coefficient": (40.0, "[hnsf'U]"),
    }
    (mean,) = group.get_measurements(codes.DCM.AttenuationCoefficient)
    assert mean.derivation == codes.SCT.Mean


def test_what_was_not_measured_is_not_there(tmp_path):
    bare = a_block(width_mm=None, height_mm=None, long_axis_mm=None, short_axis_mm=None, depth_mm=None, density=None)
    (group,) = planar_groups(read_back(exported(tmp_path, bare)))
    assert group.get_measurements() == []


def test_the_report_belongs_to_the_study_and_its_patient(tmp_path):
    case = exported(tmp_path, header={"extra": {"AccessionNumber": "A-7", "StudyID": "S-3", "IssuerOfPatientID": "H"}})
    report, source = read_back(case), dcmread(case.files[0])
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyID", "StudyDate"):
        assert report[keyword].value == source[keyword].value
    assert report.IssuerOfPatientID == "H"
    assert report.SOPClassUID == Comprehensive3DSRStorage
    assert report.SeriesInstanceUID != source.SeriesInstanceUID


def test_exporting_twice_gives_the_same_bytes(case):
    assert content_of(case) == content_of(case)


def test_its_moment_is_that_of_the_report(case):
    report = read_back(case)  # finished 2026-11-23T07:22:22+00:00
    assert (report.ContentDate, report.ContentTime) == ("20261123", "072222")
    assert (report.InstanceCreationDate, report.InstanceCreationTime) == ("20261123", "072222")


def test_another_report_has_uids_of_its_own(tmp_path):
    case = exported(tmp_path)
    other = replace(case, document=replace(case.document, warnings=("Another model.",)))
    first, second = read_back(case), read_back(other)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert UID(first.SOPInstanceUID).is_valid and first.SOPInstanceUID.startswith("2.25.")


def test_a_review_changes_the_object_but_not_the_findings_tracking_uid(case):
    draft, reviewed = read_back(case), read_back(case, a_review(finding_1=Judgement("accepted")))
    assert draft.SOPInstanceUID != reviewed.SOPInstanceUID
    assert planar_groups(draft)[0].tracking_uid == planar_groups(reviewed)[0].tracking_uid


def test_the_algorithm_is_named_with_model_and_fingerprint(case):
    said = texts(read_back(case))
    assert "model: Qwen/Qwen3-VL-8B-Instruct" in said
    assert f"fingerprint: {case.document.provenance.reader.fingerprint}" in said


def test_a_model_named_by_a_windows_path_stays_one_value(case):
    reader = replace(case.document.provenance.reader, model="C:\\models\\qwen")
    document = replace(case.document, provenance=replace(case.document.provenance, reader=reader))
    assert read_back(replace(case, document=document)).ManufacturerModelName == "C:/models/qwen"


def test_the_report_says_that_it_is_a_draft_and_how_much_was_read(case):
    said = texts(read_back(case))
    assert "Draft. Research aid, not a diagnosis; to be checked by a radiologist." in said
    assert "Of 102 frames found in this study’s series, 100 were read and 2 were not." in said


def test_a_draft_is_preliminary_and_unverified(case):
    report = read_back(case)
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )


def test_a_study_read_in_part_is_partial(tmp_path):
    case = exported(tmp_path, status="partial")
    report = read_back(case, a_review(finding_1=Judgement("accepted")))
    assert (report.CompletionFlag, report.VerificationFlag) == ("PARTIAL", "UNVERIFIED")


def test_a_named_reader_who_judged_every_finding_verifies_it(case):
    review = replace(a_review(finding_1=Judgement("accepted")), saved=datetime(2026, 11, 24, 9, 30, tzinfo=UTC))
    report = read_back(case, review)
    (observer,) = report.VerifyingObserverSequence
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("VERIFIED", "FINAL")
    assert observer.VerifyingObserverName == "Eva Muster^"
    assert observer.VerificationDateTime == "20261124093000+0000"


def test_a_reader_without_a_name_verifies_nothing(case):
    report = read_back(case, a_review("", finding_1=Judgement("accepted")))
    assert report.VerificationFlag == "UNVERIFIED" and "VerifyingObserverSequence" not in report


def test_a_rejected_finding_is_left_out_and_an_edited_one_has_the_readers_words(tmp_path):
    case = exported(tmp_path, a_block(1), a_block(2), a_block(3))
    judged = {"finding_1": Judgement("rejected"), "finding_2": Judgement("edited", "calcified cyst", "benign")}
    report = read_back(case, a_review(**judged))
    assert [group.tracking_identifier for group in planar_groups(report)] == ["medvl finding 2", "medvl finding 3"]
    assert planar_groups(report)[0].finding_type == codes.SCT.Cyst
    said = texts(report)
    assert "calcified cyst, right lung" in said and "note of Eva Muster: benign" in said


def test_the_second_look_and_the_error_of_the_axes_are_told(tmp_path):
    case = exported(tmp_path, a_block(second_look=SecondLook("contradicted", 0.1234)))
    said = texts(read_back(case))
    assert "second look: contradicted, probability 0.12" in said and "long and short axis ± 0.8 mm" in said


def test_without_findings_it_tells_how_many_slices_were_read(tmp_path):
    case = exported(tmp_path)
    case = replace(case, document=replace(case.document, findings=(), key_images=()))
    report = read_back(case)
    (group,) = report.content.get_image_measurement_groups()
    (read,) = group.get_measurements()
    assert (read.name.meaning, read.value) == ("Slices read", 100)
    assert any(said.startswith("The model reported no finding") for said in texts(report))


def test_where_every_finding_was_rejected_it_does_not_say_that_the_model_found_nothing(case):
    report = read_back(case, a_review(finding_1=Judgement("rejected")))
    said = texts(report)
    assert planar_groups(report) == []
    assert any("0 accepted, 0 edited, 1 rejected, 0 not judged" in each for each in said)
    assert not any(each.startswith("The model reported no finding") for each in said)


def test_a_frame_of_a_multi_frame_image_is_named(tmp_path):
    stored = np.stack([block_pixels(index) for index in range(3)])
    positions = [(-100.0, -100.0, 2.5 * index) for index in range(3)]
    dataset = make_enhanced_ct(stored, positions=positions, sop_uid=uid("multi"), position=positions[0])
    write_dataset(tmp_path / "multi", dataset)
    document = report_of(tmp_path, a_block(sop_instance_uid=uid("multi"), frame_index=1))
    case = replace(exported(tmp_path / "unused"), folder=tmp_path / "multi", document=document)
    (group,) = planar_groups(read_back(case))
    assert group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber == 2


@pytest.mark.parametrize(
    ("character_set", "name"), [("ISO_IR 100", "Müller^Jörg"), ("GB18030", "Wang^XiaoDong=王^小东")]
)
def test_names_of_any_character_set_arrive_whole(tmp_path, character_set, name):
    case = exported(tmp_path, header={"patient_name": name, "extra": {"SpecificCharacterSet": character_set}})
    report = read_back(case)
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert report.PatientName == name


@pytest.mark.parametrize("kind", ["1.2.840.10008.5.1.4.1.1.6", "1.3.12.2.1107.5.9.1"], ids=["retired", "private"])
def test_an_image_of_a_kind_that_no_report_refers_to_is_refused(tmp_path, kind):
    case = exported(tmp_path, header={"sop_class": kind})
    with pytest.raises(InputError, match=r"\(0008,0016\) SOP Class UID .* private or retired"):
        content_of(case)


def test_a_chinese_report_says_so(tmp_path):
    report = read_back(exported(tmp_path, a_block(observation="实性结节", site="右肺"), language="zh"))
    assert report.ContentSequence[0].ConceptCodeSequence[0].CodeValue == "zh"
    assert planar_groups(report)[0].finding_type == codes.SCT.Nodule
    assert "实性结节, 右肺" in texts(report)


def test_hostile_words_are_inert_and_bounded(tmp_path):
    endless = "W" * 100_000
    hostile = a_block(observation=HOSTILE, site=endless, description=endless, notes=(HOSTILE,) * 1000)
    case = exported(tmp_path, hostile, warnings=(HOSTILE, endless))
    report = read_back(case, a_review(HOSTILE, finding_1=Judgement("edited", HOSTILE, endless)))
    everything = str(report) + "".join(texts(report))
    assert not {"\u202e", "\x00", "\x1b"} & set(everything)
    assert max(map(len, texts(report))) <= 600
    assert len(content_of(case)) < 100_000
    (group,) = planar_groups(report)
    assert len(group.finding_type.meaning) <= 64


def test_values_that_dicom_does_not_allow_are_left_out(tmp_path):
    extra = {"PatientSex": "X", "StudyDate": None, "StudyTime": None, "StudyDescription": "D" * 64}
    report = read_back(exported(tmp_path, header={"extra": extra}))
    assert not report.PatientSex and not report.StudyDate


@pytest.mark.parametrize("name", ["Anon", "A^B^C^D^E^F^G", "N" * 64])
def test_no_library_repeats_an_odd_name_in_a_warning(tmp_path, name, caplog):
    # Warnings are errors here; highdicom has some for names like these, with the name in them.
    assert read_back(exported(tmp_path, header={"patient_name": name})).PatientName == name
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "written"),
    [("Eva Muster", "Eva Muster^"), ("Muster^Eva", "Muster^Eva"), ("A\\B=C", "A B C^")],
)
def test_a_readers_name_becomes_one_name(name, written):
    assert person_name(name) == written


def test_the_source_must_hold_the_reports_study(case):
    other = replace(case, document=replace(case.document, study=replace(case.document.study, uid="1.2.3")))
    with pytest.raises(InputError, match=r"does not hold the report's study: \(0020,000D\)"):
        other.source()


def test_the_source_must_be_of_the_reports_patient(case):
    other = replace(case, document=replace(case.document, patient=replace(case.document.patient, key="another")))
    with pytest.raises(InputError, match=r"\(0010,0020\) Patient ID differs") as raised:
        other.source()
    assert "Doe" not in str(raised.value)


def test_the_source_must_hold_the_image_of_each_finding(tmp_path):
    case = exported(tmp_path, a_block(sop_instance_uid="1.2.3.4"))
    with pytest.raises(InputError, match=r"lacks the image of finding 1: \(0008,0018\)"):
        content_of(case)


def deidentified(case):
    provenance = replace(case.document.provenance, settings=(("deidentify", "True"),))
    return replace(case, document=replace(case.document, provenance=provenance))


def test_a_deidentified_report_does_not_get_its_identity_back(tmp_path):
    with pytest.raises(InputError, match="written with --deidentify") as raised:
        deidentified(exported(tmp_path)).source()
    assert "Doe" not in str(raised.value)


def test_a_deidentified_report_goes_into_a_deidentified_study(tmp_path):
    extra = {"PatientIdentityRemoved": "YES", "DeidentificationMethod": "by hand"}
    case = deidentified(exported(tmp_path, header={"patient_name": "Anon", "extra": extra}))
    report = read_back(case)
    assert (report.PatientIdentityRemoved, report.DeidentificationMethod) == ("YES", "by hand")


def test_a_deidentified_study_that_tells_its_method_by_codes_is_referred_to(tmp_path):
    report = read_back(exported(tmp_path, header={"extra": {"PatientIdentityRemoved": "YES"}}))
    assert report.DeidentificationMethod == "as in the images of the study"


def test_an_accession_number_that_is_too_long_is_carried_as_the_images_have_it(tmp_path):
    with pytest.warns(UserWarning, match="exceeds the maximum length of 16"):  # of pydicom, as it writes the images
        case = exported(tmp_path, header={"extra": {"AccessionNumber": "A" * 30}})
    assert b"A" * 30 in content_of(case)


@pytest.mark.parametrize("number", ["12  34", "12\\34"], ids=["two spaces", "two values"])
def test_an_identifier_that_cannot_be_carried_unchanged_is_refused(tmp_path, number):
    case = exported(tmp_path, header={"extra": {"AccessionNumber": number}})
    with pytest.raises(InputError, match=r"\(0008,0050\) AccessionNumber of the source cannot be carried over"):
        content_of(case)


@pytest.mark.skipif(DCIODVFY is None, reason="needs dciodvfy, of Debian's dicom3tools")
@pytest.mark.parametrize("name", ["draft", "verified", "nothing found", "hostile"])
def test_dciodvfy_finds_no_error(tmp_path, name):
    finding = a_block(observation=HOSTILE, site=HOSTILE) if name == "hostile" else a_block()
    case = exported(tmp_path / "study", finding)
    if name == "nothing found":
        case = replace(case, document=replace(case.document, findings=(), key_images=()))
    review = a_review(finding_1=Judgement("accepted")) if name == "verified" else None
    path = tmp_path / "report.dcm"
    path.write_bytes(content_of(case, review))
    said = subprocess.run([DCIODVFY, path], capture_output=True, text=True, check=False, timeout=60).stderr
    assert "Comprehensive3DSR" in said
    assert [line for line in said.splitlines() if line.startswith("Error")] == []
