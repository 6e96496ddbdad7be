import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from medvl.report.write import image_names
from tests.builders import SAGITTAL, uid, write_dataset
from tests.dicom.test_source import write_dicomdir
from tests.pipeline.bench import Bench, fates, report_bright, write_body, write_checkpoint
from tests.reader_fakes import ScriptedReader


def test_a_lesion_lands_in_the_report_with_slice_side_and_millimetres(bench):
    write_body(bench.input)
    outcome = bench.run(ScriptedReader(report_bright))
    [finding] = bench.report().findings
    # Read from the head down: of twelve slices, those with index 8 to 6 come fourth to sixth.
    assert (finding.first_slice, finding.last_slice) == (4, 6)
    assert finding.sop_instance_uid == uid("study", "series", 12 - finding.key_slice)
    assert finding.side == "left"
    assert (finding.width_mm, finding.height_mm, finding.depth_mm) == pytest.approx((20, 20, 9))
    assert finding.center_lps_mm[:2] == pytest.approx((67.5, -2.5))
    assert finding.box_stored_px == pytest.approx((43.5, 29.5, 47.5, 33.5))
    assert outcome.exit_status == 0


def test_the_lesion_is_one_finding_through_every_window_and_chunk(bench):
    write_body(bench.input)
    reader = ScriptedReader(report_bright)
    bench.run(reader, windows=("mediastinum", "40/300"))
    document = bench.report()
    assert len(document.findings) == 1
    # Twelve slices in chunks of at most four that share one: 1–3, 3–6, 6–9, 9–12, in each of two windows.
    assert [view.chunk_count for view in document.series[0].views] == [4, 4]
    assert document.findings[0].chunks == (1, 2)


def test_the_model_writes_the_impression_from_the_merged_finding(bench):
    write_body(bench.input)
    reader = ScriptedReader(report_bright)
    bench.run(reader)
    impression = bench.report().impression
    assert impression.written_by == "model"
    assert [(sentence.text, sentence.findings) for sentence in impression.sentences] == [
        ("One dense mass in the left chest.", (1,))
    ]
    assert "dense mass" in reader.requests[-1].parts[0]


def test_an_impression_that_cannot_be_used_is_replaced_and_the_report_says_so(bench):
    write_body(bench.input)
    bench.run(ScriptedReader(lambda request: "normal" if len(request.parts) == 1 else report_bright(request)))
    impression = bench.report().impression
    assert impression.written_by == "template"
    assert "could not be used" in impression.note
    assert impression.sentences[0].findings == (1,)


def test_each_picture_is_followed_by_its_label_and_the_query_comes_last(bench):
    write_body(bench.input, count=3)
    reader = ScriptedReader()
    bench.run(reader)
    parts = reader.requests[0].parts
    assert [isinstance(part, str) for part in parts] == [True, False, True, False, True, False, True, True]
    assert [part for part in parts if isinstance(part, str)][1:4] == [
        "SLICE 1 (z = 6.0 mm)",
        "SLICE 2 (z = 3.0 mm)",
        "SLICE 3 (z = 0.0 mm)",
    ]
    assert all(part.shape == (64, 64) for part in parts if not isinstance(part, str))


def test_every_slice_is_read_in_the_chunk_the_report_names(bench):
    write_body(bench.input)
    bench.run(ScriptedReader())
    chunks = [tuple(read.chunk for read in fate.read_in) for fate in bench.report().series[0].slices]
    assert chunks == [(0,), (0,), (0, 1), (1,), (1,), (1, 2), (2,), (2,), (2, 3), (3,), (3,), (3,)]


def test_each_picture_on_disk_is_one_the_report_shows(bench):
    write_body(bench.input)
    bench.run(ScriptedReader(report_bright))
    [folder] = bench.output.glob("*/*/images")
    assert {path.name for path in folder.iterdir()} == image_names(bench.report())


def test_every_frame_of_a_mixed_study_is_accounted_for_exactly_once(bench):
    expected = write_mixed_study(bench)
    outcome = bench.run(ScriptedReader())
    accounted = fates(bench.report())
    assert sorted(accounted) == sorted(set(accounted))
    assert sorted(accounted) == sorted(expected)
    assert outcome.unread == (("notes.txt", "not a DICOM file"),)


def test_a_truncated_slice_makes_the_report_incomplete_and_the_exit_status_4(bench):
    write_mixed_study(bench)
    outcome = bench.run(ScriptedReader())
    [study] = outcome.studies
    assert (study.status, study.slices_read, study.slices_found) == ("partial", 16, 17)
    assert outcome.exit_status == 4


def test_each_frame_left_out_has_its_reason(bench):
    write_mixed_study(bench)
    bench.run(ScriptedReader())
    document = bench.report()
    reasons = {series.description: series.reason for series in document.series if not series.chosen}
    assert reasons == {"scout": "scout (localizer)"}
    found = sorted(file.reason.split(" of ")[0] for file in document.unread_files)
    assert found == ["duplicate", "not an image: Basic Text SR", "truncated: the pixels"]
    doubles = [fate for series in document.series if series.chosen for fate in series.slices if not fate.slice]
    assert [fate.not_read_because.startswith("same position as") for fate in doubles] == [True]


def test_frames_left_out_at_one_position_stand_in_red(bench):
    write_body(bench.input, count=6, duplicate_at=2)
    bench.run(ScriptedReader())
    *_, warning = bench.report().warnings  # the model's own comes first
    assert warning.startswith("1 frame of series 1 at positions already taken: not read")


def test_identity_in_the_pixels_stands_in_red(bench):
    write_body(bench.input, count=3, extra={"BurnedInAnnotation": "YES"})
    bench.run(ScriptedReader())
    *_, warning = bench.report().warnings  # the model's own comes first
    assert "(0028,0301) Burned In Annotation" in warning


def test_a_study_without_the_series_asked_for_keeps_its_report(bench):
    write_body(bench.input / "a", count=3)
    write_body(bench.input / "b", count=3, study="other")
    bench.run(ScriptedReader())
    outcome = bench.run(ScriptedReader(), series=(uid("other", "series"),))
    assert [(study.status, study.slices_read) for study in outcome.studies] == [("complete", 3)]


def write_mixed_study(bench: Bench) -> list[tuple[str, int]]:
    """Two axial series, one zipped; a scout, a report, a duplicate, a truncated slice, a double position, a text.

    Returns file and frame of all that belongs to the study.
    """
    chest = write_body(bench.input / "a", count=10, duplicate_at=3)
    other = write_body(bench.root / "zipped", count=7, series="later", description="late", frame_of_reference="other")
    scout = write_body(
        bench.input / "b", count=1, series="scout", description="scout", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")
    )
    copy = bench.input / "copy"
    copy.write_bytes(chest[0].read_bytes())
    chest[9].write_bytes(chest[9].read_bytes()[:-100])
    with zipfile.ZipFile(bench.input / "late.zip", "w") as archive:
        for path in other:
            archive.write(path, path.name)
    (bench.input / "notes.txt").write_text("nothing to see")
    report = write_dataset(bench.input / "sr", structured_report())
    files = [*chest, *scout, copy, report]
    return [
        *((path.relative_to(bench.input).as_posix(), 0) for path in files),
        *((f"late.zip/{path.name}", 0) for path in other),
    ]


def test_a_dicomdir_leads_to_its_files_and_to_those_that_are_gone(bench):
    paths = write_body(bench.input / "disc", count=5)
    index = write_dicomdir(bench.input, *(["disc", path.name] for path in paths))
    assert bench.run(ScriptedReader(), paths=(index,)).studies[0].slices_read == 5
    paths[4].unlink()
    outcome = bench.run(ScriptedReader(), paths=(index,))
    assert outcome.unread == ((f"disc/{paths[4].name}", "listed in the DICOMDIR, but not there"),)
    assert (outcome.studies[0].slices_read, outcome.exit_status) == (4, 4)


def structured_report() -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = BasicTextSRStorage
    dataset.SOPInstanceUID = uid("report")
    dataset.StudyInstanceUID = uid("study")
    dataset.SeriesInstanceUID = uid("study", "reports")
    dataset.PatientID = "P1"
    dataset.Modality = "SR"
    return dataset


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 13),
    chunk=st.integers(1, 6),
    batch=st.integers(1, 4),
    slab=st.sampled_from(["off", "6"]),
    gap_at=st.none() | st.integers(1, 5),
    limit=st.none() | st.integers(1, 9),
)
def test_whatever_the_plan_every_slice_is_read(tmp_path_factory, count, chunk, batch, slab, gap_at, limit):
    bench = Bench(tmp_path_factory.mktemp("plan"))
    write_body(bench.input, count=count, gap_at=gap_at)
    outcome = bench.run(ScriptedReader(picture_limit=limit), chunk=str(chunk), batch=batch, slab=slab)
    assert (outcome.exit_status, outcome.studies[0].slices_read) == (0, count)


def test_two_studies_of_one_patient_share_a_page_with_the_newer_one_first(bench):
    write_body(bench.input / "1", study="older", extra={"StudyDate": "20230101"}, study_description="First visit")
    write_body(bench.input / "2", study="newer", extra={"StudyDate": "20240202"}, study_description="Second visit")
    outcome = bench.run(ScriptedReader(report_bright))
    assert len({study.page for study in outcome.studies}) == 1
    page = outcome.studies[0].page.read_text()
    assert 0 < page.index("Second visit") < page.index("First visit")
    assert page.count('<article class="study"') == 2


def test_the_index_lists_every_patient_of_every_run(bench):
    write_body(bench.input, patient_id="A", study="a", patient_name="Alder^Ann")
    bench.run(ScriptedReader())
    write_body(bench.root / "second", patient_id="B", study="b", patient_name="Birch^Bob")
    bench.run(ScriptedReader(), paths=(bench.root / "second",))
    index = bench.pages()["index.html"]
    assert "Alder" in index
    assert "Birch" in index


def test_a_study_without_anything_to_read_is_not_shown_as_complete(bench):
    write_body(bench.input / "1", study="one")
    report = structured_report()
    report.StudyInstanceUID = uid("another")
    write_dataset(bench.input / "sr", report)
    outcome = bench.run(ScriptedReader())
    statuses = {study.slices_found: study.status for study in outcome.studies}
    assert statuses == {12: "complete", 0: "nothing"}
    assert outcome.exit_status == 0
    page = next(study.page for study in outcome.studies if study.status == "nothing").read_text()
    assert "NOTHING READ" in page


def test_the_checkpoint_s_wishes_are_followed_unless_the_user_has_others(bench):
    write_checkpoint(bench.checkpoint, size_px=96, prompt="generic_ct")
    write_body(bench.input, count=3)
    bench.run(ScriptedReader())
    [view] = bench.report().series[0].views
    assert (view.size_px, view.prompt, view.name) == (96, "generic_ct", "mediastinum")
    bench.run(ScriptedReader(), size_px=32, prompt="chest_ct", windows=("lung",))
    [view] = bench.report().series[0].views
    assert (view.size_px, view.prompt, view.name) == (32, "chest_ct", "lung")


def test_a_sagittal_stack_is_turned_and_its_lesion_keeps_its_place(bench):
    # The column index runs along y, the row index along −z, and the stack along x.
    write_body(bench.input, iop=SAGITTAL, position=(0.0, -160.0, 160.0))
    bench.run(ScriptedReader(report_bright))
    [finding] = bench.report().findings
    assert bench.report().series[0].plane == "sagittal"
    # Column 45.5 lies at y = −160 + 45.5 · 5, row 31.5 at z = 160 − 31.5 · 5.
    assert finding.center_lps_mm[1:] == pytest.approx((67.5, 2.5))
    assert (finding.width_mm, finding.height_mm) == pytest.approx((20, 20))
