import csv
from dataclasses import replace

import pytest

from medvl.export.table import findings_table
from medvl.records import Density, SecondLook
from medvl.report.review import Judgement, apply_review
from tests.export.builders import a_block, a_review
from tests.report.examples import HOSTILE, a_report


def a_study(*findings):
    report = a_report(findings=findings)
    return replace(report, study=replace(report.study, uid=a_review().study_uid))


def rows(document, review=None):
    text = findings_table(apply_review(document, review)).decode("utf-8-sig")
    return list(csv.DictReader(text.splitlines()))


def test_a_finding_is_one_row_with_its_numbers():
    look, density = SecondLook("confirmed", 0.91234), Density(40.5, -10, 90, "soft tissue")
    (row,) = rows(a_study(a_block(second_look=look, density=density)))
    expected = {
        "number": "1",
        "review": "not judged",
        "observation": "solid nodule",
        "long_axis_mm": "6.4",
        "short_axis_mm": "3.2",
        "axis_error_mm": "0.8",
        "mean_hu": "40.5",
        "density": "soft tissue",
        "second_look": "confirmed",
        "second_look_probability": "0.9123",
        "frame": "1",
        "column_1_px": "19.5",
        "z_lps_mm": "2.5",
        "report": "Draft. Research aid, not a diagnosis; to be checked by a radiologist.",
    }
    assert {name: row[name] for name in expected} == expected


def test_what_was_not_measured_is_empty():
    bare = a_block(width_mm=None, long_axis_mm=None, axis_error_mm=None, density=None, center_lps_mm=None)
    (row,) = rows(a_study(bare))
    assert {row[name] for name in ("long_axis_mm", "axis_error_mm", "mean_hu", "density", "x_lps_mm")} == {""}


def test_width_and_height_of_an_earlier_report_become_axes():
    (row,) = rows(a_study(a_block(width_mm=3.2, height_mm=6.4, long_axis_mm=None, short_axis_mm=None)))
    assert (row["long_axis_mm"], row["short_axis_mm"]) == ("6.4", "3.2")


def test_rejected_findings_stay_with_what_was_said():
    review = a_review(finding_1=Judgement("rejected", note="vessel"), finding_2=Judgement("edited", "cyst"))
    first, second, third = rows(a_study(a_block(1), a_block(2), a_block(3)), review)
    assert (first["review"], first["note"], first["reader"]) == ("rejected", "vessel", "Eva Muster")
    assert (second["review"], second["observation"]) == ("edited", "cyst")
    assert third["review"] == "not judged"


def test_a_report_without_findings_is_a_row_of_names():
    lines = findings_table(apply_review(a_study(), None)).decode("utf-8-sig").splitlines()
    assert len(lines) == 1 and lines[0].startswith("number,review,reader,observation")


def test_it_begins_with_a_byte_order_mark_for_spreadsheets():
    assert findings_table(apply_review(a_study(), None)).startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize("words", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", '=HYPERLINK("http://x")', "\u202e=1"])
def test_no_words_become_a_formula(words):
    (row,) = rows(a_study(a_block(observation=words)))
    assert row["observation"].startswith("'")


def test_negative_numbers_stay_numbers():
    (row,) = rows(a_study(a_block()))
    assert float(row["x_lps_mm"]) == -81.2


def test_hostile_words_stay_in_their_cell():
    finding = a_block(observation=f'{HOSTILE}",\r\n=1', description="W" * 100_000, notes=(HOSTILE,) * 1000)
    (row,) = rows(a_study(finding, a_block(2)))[:1]
    assert len(rows(a_study(finding, a_block(2)))) == 2
    assert max(map(len, row.values())) <= 600
    assert not {"\u202e", "\x00", "\x1b", "\r", "\n"} & set("".join(row.values()))
