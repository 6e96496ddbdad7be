"""What the gate says medvl does about a stack is what the line then does."""

from __future__ import annotations

import numpy as np
import pytest

from medvl.report.schema import report_schema
from tests.builders import write_series
from tests.pipeline.bench import body, report_bright, write_body
from tests.reader_fakes import ScriptedReader


def codes(series):
    return [note.code for note in series.notes]


@pytest.mark.parametrize("spacing_mm", [None, (0.0, 0.0)], ids=["missing", "zero"])
def test_a_stack_without_pixel_spacing_has_no_millimetres_in_its_plane_but_along_it(bench, spacing_mm):
    write_body(bench.input, spacing_mm=spacing_mm)
    bench.run(ScriptedReader(report_bright))
    report = bench.report()
    [series], [finding] = report.series, report.findings
    assert codes(series) == ["zero_pixel_spacing" if spacing_mm else "no_pixel_spacing"]
    assert (series.pixel_spacing_mm, series.views[0].mm_per_px) == (None, None)
    assert (finding.width_mm, finding.height_mm, finding.center_lps_mm) == (None, None, None)
    assert (finding.depth_mm, series.slices[0].position_mm) == (9.0, 33.0)  # 3 slices of 3 mm; 11 × 3 mm
    assert " mm," not in report.impression.sentences[0].text
    page = "".join(bench.pages().values())
    assert "reads without millimetres in the plane, pixels taken as square; depth only where slices have pos" in page


def test_a_stack_without_positions_either_has_no_millimetres_at_all(bench):
    write_body(bench.input, spacing_mm=None, position=None)
    bench.run(ScriptedReader(report_bright))
    report = bench.report()
    assert codes(report.series[0]) == ["no_position", "no_pixel_spacing"]
    for finding in report.findings:
        assert (finding.width_mm, finding.depth_mm, finding.center_lps_mm, finding.extent_mm) == (None,) * 4
    assert {fate.position_mm for fate in report.series[0].slices} == {None}
    assert report.findings


def test_values_that_are_no_hu_are_not_shown_through_a_window_in_hu(bench):
    write_body(bench.input, pixels=lambda index: body(index).astype(np.uint16), intercept=0.0)
    bench.run(ScriptedReader(report_bright))
    [series] = bench.report().series
    assert codes(series) == ["unrescaled"]
    assert [view.name for view in series.views] == ["percentile"]  # "mediastinum" was asked for


def test_a_slope_of_zero_does_not_make_black_pictures(bench):
    write_body(bench.input, slope=0.0)
    reader = ScriptedReader(report_bright)
    bench.run(reader)
    assert codes(bench.report().series[0]) == ["zero_slope"]
    pictures = [part for request in reader.requests for part in request.parts if not isinstance(part, str)]
    assert min(np.ptp(picture) for picture in pictures) == 255


def test_a_tilted_study_is_read_at_the_place_and_size_that_the_headers_give(bench):
    write_body(bench.input, tilt_degrees=15.0)
    bench.run(ScriptedReader(report_bright))
    report = bench.report()
    [series] = report.series
    assert report.findings
    assert codes(series) == ["tilt"]
    # 12 slices of 3 mm drift by 11 × 3 × sin 15° = 8.54 mm; the field of view of 64 × 5 mm grows by that.
    assert series.views[0].mm_per_px == pytest.approx((320 + 8.541) / 64, abs=0.001)
    for finding in report.findings:
        # The cuboid's centre, 31.5 rows of 5 mm down a column that leans by 15° to the head, within half a pixel.
        down, z = 157.5 * np.array((np.cos(np.radians(15)), np.sin(np.radians(15)))), 3 * (12 - finding.key_slice)
        assert finding.center_lps_mm == pytest.approx((67.5, -160 + down[0], z + down[1]), abs=2.6)


def test_every_note_in_the_report_says_what_was_done(bench):
    write_body(bench.input, gap_at=4)
    bench.run(ScriptedReader(report_bright))
    [note] = bench.report().series[0].notes
    # z = 0, 3, 6, 9, 15, …: from the head down, the gap follows slice 8.
    assert (note.code, note.values) == ("gap", {"slice": 8, "mm": 3.0})
    assert (note.text, note.action) == ("gap after slice 8: 3 mm missing", "averages no slices across the gap")
    assert note.severity == "caution"
    assert set(report_schema()["$defs"]["NoteReport"]["required"]) == {"code", "values", "text", "action"}


def test_a_chinese_page_says_reasons_notes_and_warnings_in_chinese_and_report_json_in_english(bench):
    write_body(bench.input, duplicate_at=3, extra={"BurnedInAnnotation": "YES"})
    write_series(bench.input, count=1, series="scout", description="scout", series_number=2)
    bench.run(ScriptedReader(report_bright), language="zh")
    report, page = bench.report(), "".join(bench.pages().values())
    assert report.series[0].reason == "axial CT series"
    assert len(report.warnings) == 3  # of the reader, of the frame left out, of the annotation
    for english, chinese in (
        ("axial CT series", "横断面 CT 序列"),
        ("scout (localizer)", "定位像"),
        ("same position as", "位置相同"),
        ("positions already taken", "位于已占用的位置：未读，可能是另一期相"),
        ("Burned In Annotation", "--deidentify 不改动像素"),
    ):
        assert (english in page, chinese in page) == (False, True), english
