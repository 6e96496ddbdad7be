"""Writes findings as a table: one row each, those that the reader rejected included."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from medvl.export.describe import TEXT_CHARACTERS, draft_notice
from medvl.export.measures import axes_mm
from medvl.records import Finding
from medvl.report.document import ReportDocument
from medvl.report.review import JudgedFinding, ReviewedReport
from medvl.text import clean_text

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet compute a cell (OWASP, CSV injection)
_PLACES = 4  # of pixels, millimetres, HU and probabilities

Cell = str | int | float | None


def findings_table(reviewed: ReviewedReport) -> bytes:
    """Make the table: UTF-8 with a byte order mark, which spreadsheets need to tell it from their own encoding.

    The first row names the columns; a report without findings has no other. Nothing measured: an empty cell.
    """
    document = reviewed.document
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    rows = [_row(judged, reviewed, document) for judged in reviewed.findings]
    writer.writerow(_COLUMNS)
    writer.writerows([_written(row.get(column)) for column in _COLUMNS] for row in rows)
    return text.getvalue().encode("utf-8-sig", "replace")


_COLUMNS = (
    *("number", "review", "reader", "observation", "site", "side", "side_said", "certainty", "description", "note"),
    *("long_axis_mm", "short_axis_mm", "axis_error_mm", "depth_mm", "mean_hu", "low_hu", "high_hu", "density"),
    *("second_look", "second_look_probability", "confidence"),
    *("study_uid", "series_uid", "sop_instance_uid", "frame", "view", "key_slice", "first_slice", "last_slice"),
    *("column_1_px", "row_1_px", "column_2_px", "row_2_px", "x_lps_mm", "y_lps_mm", "z_lps_mm", "notes", "report"),
)


def _row(judged: JudgedFinding, reviewed: ReviewedReport, document: ReportDocument) -> Mapping[str, Cell]:
    finding = judged.finding
    return {
        "number": finding.number,
        "review": judged.status or "not judged",
        "reader": reviewed.reader,
        "observation": finding.observation,
        "site": finding.site,
        "side": finding.side,
        "side_said": finding.side_said,
        "certainty": finding.certainty,
        "description": finding.description,
        "note": judged.note,
        "confidence": finding.confidence,
        "notes": "; ".join(finding.notes),
        "report": draft_notice(document),
        **_measured(finding),
        **_evidence(finding, document),
    }


def _measured(finding: Finding) -> Mapping[str, Cell]:
    long_mm, short_mm = axes_mm(finding)
    measured: dict[str, Cell] = {
        "long_axis_mm": long_mm,
        "short_axis_mm": short_mm,
        "axis_error_mm": finding.axis_error_mm,
        "depth_mm": finding.depth_mm,
    }
    if density := finding.density:
        measured |= {"mean_hu": density.mean_hu, "low_hu": density.low_hu, "high_hu": density.high_hu}
        measured["density"] = density.hint
    if look := finding.second_look:
        measured |= {"second_look": look.verdict, "second_look_probability": look.probability}
    return measured


def _evidence(finding: Finding, document: ReportDocument) -> Mapping[str, Cell]:
    column_1, row_1, column_2, row_2 = finding.box_stored_px
    x, y, z = finding.center_lps_mm or (None, None, None)
    return {
        "study_uid": document.study.uid,
        "series_uid": finding.series_uid,
        "sop_instance_uid": finding.sop_instance_uid,
        "frame": finding.frame_index + 1,
        "view": finding.view,
        "key_slice": finding.key_slice,
        "first_slice": finding.first_slice,
        "last_slice": finding.last_slice,
        "column_1_px": column_1,
        "row_1_px": row_1,
        "column_2_px": column_2,
        "row_2_px": row_2,
        "x_lps_mm": x,
        "y_lps_mm": y,
        "z_lps_mm": z,
    }


def _written(cell: Cell) -> Cell:
    if isinstance(cell, float):
        return round(cell, _PLACES)
    if not isinstance(cell, str):
        return cell
    plain = clean_text(cell, TEXT_CHARACTERS)
    return f"'{plain}" if plain.startswith(_FORMULA) else plain
