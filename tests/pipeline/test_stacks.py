"""Stories of series that hold several pictures of one place, and of modalities with a window of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import PositronEmissionTomographyImageStorage

from medvl.dicom.scan import scan
from medvl.pipeline.views import PlannedStudy, Wanted, plan_views
from medvl.prompts import load_prompts
from tests.builders import uid, write_series
from tests.pipeline.bench import body, fates, report_bright, write_body
from tests.reader_fakes import ScriptedReader

SERIES_UID = uid("study", "diffusion")


def write_diffusion(folder: Path, *b_values: float) -> None:
    """Write an MR series of 12 places with each b-value at each."""
    for b_value in b_values:
        extra = {"SeriesInstanceUID": SERIES_UID, "DiffusionBValue": b_value}
        write_body(folder, modality="MR", series=f"b {b_value}", extra=extra, body_part="HEAD")


def write_pet(folder: Path, **extra: object) -> None:
    """Write a PET of 70 kg and 350 MBq, decayed to half of it at the scan."""
    tracer = Dataset()
    tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = 350e6, 6000.0
    tracer.RadiopharmaceuticalStartTime = "080000"
    facts = {
        **{"Units": "BQML", "CorrectedImage": ["DECY", "ATTN"], "DecayCorrection": "START", "PatientWeight": 70.0},
        **{"SeriesDate": "20240131", "SeriesTime": "094000"},
        **{"AcquisitionDate": "20240131", "AcquisitionTime": "094000"},
        "RadiopharmaceuticalInformationSequence": DicomSequence([tracer]),
        **extra,
    }
    sop_class = PositronEmissionTomographyImageStorage
    write_series(folder, modality="PT", sop_class=sop_class, series="pet", slope=2.0, intercept=0.0, extra=facts)


def planned(folder: Path) -> PlannedStudy:
    (study,) = scan([folder]).studies
    return plan_views(study, Wanted(), load_prompts())


def test_the_lowest_and_the_highest_b_value_are_read_and_the_others_are_listed(bench):
    write_diffusion(bench.input, 0.0, 400.0, 800.0)
    outcome = bench.run(ScriptedReader())
    report = bench.report()
    assert [(each.chosen, each.reason) for each in report.series] == [
        (True, "b 0 s/mm²: axial MR series"),
        (True, "b 800 s/mm²: axial MR series"),
        (
            False,
            f"b 400 s/mm²: of the b-values the lowest and the highest are read; --series {SERIES_UID} reads all",
        ),
    ]
    assert {fate.not_read_because for fate in report.series[2].slices} == {report.series[2].reason}
    assert len(fates(report)) == len(set(fates(report))) == 36
    assert (outcome.studies[0].slices_read, outcome.studies[0].slices_found, outcome.exit_status) == (24, 24, 0)
    assert report.warnings == ("scripted",)  # by the reader itself


def test_a_series_asked_for_is_read_with_every_b_value(bench):
    write_diffusion(bench.input, 0.0, 400.0, 800.0)
    outcome = bench.run(ScriptedReader(), series=(SERIES_UID,))
    assert (outcome.studies[0].slices_read, outcome.studies[0].slices_found) == (36, 36)


def test_each_view_names_its_stack_and_is_windowed_by_its_own_values(tmp_path):
    write_diffusion(tmp_path, 0.0, 800.0)
    study = planned(tmp_path)
    assert [each.view.name for each in study.views] == [
        "stack 1 (b 0 s/mm²), percentile",
        "stack 2 (b 800 s/mm²), percentile",
    ]
    assert study.set_aside == ()


@pytest.mark.parametrize("body_part", ["HEAD", "KNEE"])
def test_mr_is_windowed_by_percentiles_whatever_the_header_says(tmp_path, body_part):
    write_body(tmp_path, modality="MR", body_part=body_part, windows=[(300, 600)], count=3)
    (view,) = planned(tmp_path).views
    assert view.view.name == "percentile"


def test_a_pet_is_read_as_suv_from_0_to_7(tmp_path):
    write_pet(tmp_path)
    study = planned(tmp_path)
    (view,) = study.views
    assert (view.prompt.id, view.view.rendering.windows[0].label) == ("pet", "SUV WL 3.5 WW 7")
    assert study.stacks[0].notes == ()


def test_a_pet_without_weight_is_windowed_by_percentiles_and_says_why(tmp_path):
    write_pet(tmp_path, PatientWeight=None)
    study = planned(tmp_path)
    assert study.views[0].view.name == "percentile"
    assert [note.code for note in study.stacks[0].notes] == ["suv_weight"]


def test_a_lesion_in_two_series_of_different_ranges_is_one_finding_that_says_so(bench):
    # The second series begins four slices nearer to the head: the cuboid of slices 4 to 6 is in its slices 4 to 6, too.
    write_body(bench.input / "1", series="thin", study="both", extra={"AcquisitionNumber": 1})
    later = {"AcquisitionNumber": 2, "SeriesNumber": 2}
    write_body(
        bench.input / "2",
        series="venous",
        study="both",
        count=8,
        position=(-160.0, -160.0, 12.0),
        pixels=lambda index: body(index + 4),
        extra=later,
    )
    bench.run(ScriptedReader(report_bright))
    report = bench.report()
    assert [series.chosen for series in report.series] == [True, True]
    [finding] = report.findings
    assert finding.center_lps_mm == pytest.approx((67.5, -2.5, 21.0), abs=0.01)  # of slice 5, the second of two chunks
    assert [note for note in finding.notes if "(series " in note] == ["also seen on slices 4–6 (series 1, mediastinum)"]


def test_lesions_of_series_in_different_frames_of_reference_are_two_findings(bench):
    write_body(bench.input / "1", series="one", study="both")
    extra = {"SeriesNumber": 2, "FrameOfReferenceUID": uid("another space"), "AcquisitionNumber": 2}
    write_body(bench.input / "2", series="other", study="both", extra=extra)
    bench.run(ScriptedReader(report_bright), series=("all",))
    assert len(bench.report().findings) == 2
