"""A small chest CT with one bright block, and the report of it. All places are worked out by hand.

Three slices of 48 rows and 64 columns, 0.8 mm apart in the plane, the first pixel's centre at (-100, -100). In the
second slice, rows 10 to 13 and columns 20 to 27 are bright: the block's corners lie at columns 19.5 and 27.5 and at
rows 9.5 and 13.5, its centre at column 23.5, row 11.5, so at x = -100 + 23.5 · 0.8 = -81.2, y = -90.8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.dicom.scan import scan
from medvl.export.source import SourceStudy, load_source
from medvl.records import Box, Density, Finding
from medvl.report.document import Impression, KeyImage, ReportDocument, Sentence
from medvl.report.review import Judgement, Review, ReviewedReport, apply_review
from tests.builders import uid, write_series
from tests.report.examples import LUNG, a_finding, a_report

ROWS, COLUMNS = 48, 64
BLOCK = (slice(10, 14), slice(20, 28))
BRIGHT, DARK = 1064, 24  # stored; 40 and -1000 HU
BOX_STORED = (19.5, 9.5, 27.5, 13.5)
CENTRE_LPS = (-81.2, -90.8, 2.5)
# The 48 rows lie centred in a square of 64: a block's rows move down by 8 of 64, and 1 px is 1000/64 units.
BOX = Box(20 * 1000 / 64, 18 * 1000 / 64, 28 * 1000 / 64, 22 * 1000 / 64)


@dataclass(frozen=True)
class Exported:
    """A study on disk and its report."""

    folder: Path
    files: list[Path]
    document: ReportDocument

    def source(self) -> SourceStudy:
        return load_source([self.folder], self.document)

    def reviewed(self, review: Review | None = None) -> ReviewedReport:
        return apply_review(self.document, review)


def block_pixels(index: int) -> NDArray[np.int16]:
    stored = np.full((ROWS, COLUMNS), DARK, np.int16)
    if index == 1:
        stored[BLOCK] = BRIGHT
    return stored


def a_block(number: int = 1, **changes: Any) -> Finding:
    """6.4 × 3.2 mm in the plane, and one slice of 2.5 mm."""
    finding = a_finding(
        number,
        observation="solid nodule",
        site="right lung",
        series_uid=uid("study", "series"),
        sop_instance_uid=uid("study", "series", 1),
        first_slice=2,
        last_slice=2,
        key_slice=2,
        box=BOX,
        box_stored_px=BOX_STORED,
        center_lps_mm=CENTRE_LPS,
        width_mm=6.4,
        height_mm=3.2,
        depth_mm=2.5,
        long_axis_mm=6.4,
        short_axis_mm=3.2,
        axis_error_mm=0.8,
        density=Density(40.0, 40.0, 40.0, "soft tissue"),
    )
    return replace(finding, **changes)


def exported(folder: Path, *findings: Finding, header: dict[str, Any] | None = None, **changes: Any) -> Exported:
    """Write the study and make its report. header: of the study's files. changes: of the report."""
    files = write_series(
        folder,
        count=3,
        rows=ROWS,
        columns=COLUMNS,
        position=(-100.0, -100.0, 0.0),
        pixels=block_pixels,
        **(header or {}),
    )
    return Exported(folder, files, report_of(folder, *findings, **changes))


def report_of(folder: Path, *findings: Finding, **changes: Any) -> ReportDocument:
    study = scan([folder]).studies[0]
    found = findings or (a_block(),)
    sentences = tuple(Sentence(f"Finding {each.number}: {each.observation}.", (each.number,)) for each in found)
    report = a_report(
        patient=study.patient,
        findings=found,
        key_images=tuple(KeyImage(each.number, f"{each.number}.webp", LUNG, 2, 2.5, (0, 0, 1, 1)) for each in found),
        impression=Impression(sentences, "template"),
    )
    facts = replace(report.study, uid=study.uid, date=study.date, accession=study.accession)
    return replace(report, study=facts, **changes)


def a_review(reader: str = "Eva Muster", **judged: Judgement) -> Review:
    """judged: by finding, as in finding_1=Judgement(…)."""
    findings = {int(name.removeprefix("finding_")): judgement for name, judgement in judged.items()}
    return Review(1, uid("study"), reader, findings)
