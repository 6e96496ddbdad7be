"""A NIfTI file from scan to report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvl.report.schema import read_document
from tests.dicom.volume_files import write_volume
from tests.pipeline.bench import Bench, body, report_bright
from tests.pipeline.test_coverage import check_accounted
from tests.reader_fakes import ScriptedReader

AS_NIFTI = ((-1, 0, 0), (0, -1, 0), (0, 0, 1))


def write_body_volume(path: Path) -> Path:
    """Write the body of the bench in HU, stored with columns running to the right and rows to anterior."""
    values = np.stack([body(index) for index in range(12)]) - np.int16(1024)
    return write_volume(path, values[:, ::-1, ::-1], axes=AS_NIFTI, spacing=(5, 5, 3), origin=(155, 155, 0))


@pytest.mark.parametrize("name", ["chest.nii.gz", "chest.mha"])
def test_a_lesion_is_reported_where_it_lies_in_the_patient(bench, name):
    write_body_volume(bench.input / name)
    outcome = bench.run(ScriptedReader(report_bright))
    [finding] = bench.report().findings
    assert outcome.exit_status == 0
    assert finding.side == "left"
    assert finding.center_lps_mm[:2] == pytest.approx((67.5, -2.5), abs=0.1)
    assert finding.extent_mm == pytest.approx((16.5, 25.5), abs=0.1)  # from half a slice below z = 18 to above 24
    check_accounted(bench.report(), 12)


def test_a_report_of_a_volume_says_what_is_not_known_and_what_is_guessed(bench):
    write_body_volume(bench.input / "chest.nii.gz")
    bench.run(ScriptedReader(report_bright))
    [series] = bench.report().series
    assert "guessed_ct" in [note.code for note in series.notes]
    [page] = [text for path, text in bench.pages().items() if path.count("/") == 1]
    assert "CT and HU are guessed from the values" in page


def test_values_without_a_unit_are_read_with_the_general_prompt_and_a_measured_window(bench):
    values = np.random.default_rng(0).permutation(4 * 64 * 64).astype(np.uint16)  # each of 0 to 16383 once
    write_volume(bench.input / "brain.nrrd", values.reshape(4, 64, 64))
    assert bench.run(ScriptedReader(report_bright)).exit_status == 0
    [series] = bench.report().series
    [view] = series.views
    assert (view.prompt, view.windows) == ("generic_image", ("percentile WL 8191.5 WW 16055.3",))


def test_what_is_missing_of_a_volume_is_accounted_for(bench: Bench):
    path = write_body_volume(bench.input / "chest.nii")
    path.write_bytes(path.read_bytes()[:-1])
    outcome = bench.run(ScriptedReader(report_bright))
    assert outcome.exit_status == 4
    check_accounted(bench.report(), 12)
    [missing] = bench.report().unread_files
    assert (missing.file, missing.frame_count) == ("chest.nii", 1)


def test_of_a_scan_and_its_label_map_the_scan_is_read_and_every_slice_of_the_map_listed(bench):
    write_body_volume(bench.input / "chest.nii.gz")
    labels = np.zeros((12, 64, 64), np.uint8)
    labels[6:9, 20:44, 20:44] = 1
    write_volume(bench.input / "mask.nii.gz", labels, spacing=(5, 5, 3), origin=(-160, -160, 0))
    assert bench.run(ScriptedReader(report_bright)).exit_status == 0
    assert bench.run().exit_status == 0  # nothing is left to read
    reports = [read_document(path) for path in bench.output.glob("*/*/report.json")]
    for report in reports:
        check_accounted(report, 12)
    fates = {bool(fate.read_in) for report in reports for series in report.series for fate in series.slices}
    assert (len(reports), fates) == (2, {True, False})
