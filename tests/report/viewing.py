"""A patient's page with a viewer: every slice of the stack is one grey of its own, the box of finding 1 is brighter."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from medvl.records import Box
from medvl.report.document import ReportDocument, SeriesReport
from medvl.report.html import write_patient_page
from medvl.report.images import encode_image
from medvl.report.viewer import Gallery, GalleryWindow, slices_digest, write_galleries
from medvl.report.write import write_study
from tests.report.examples import CHEST, a_partial_report, a_report, pictures

SIDE_PX = 160  # a multiple of 16, so that JPEG keeps the edges of the box whole
BOX_PX = (32, 48, 64, 80)  # x1, y1, x2, y2
BOX_GREY = 220
KEY_SLICE = 42


def grey_of(slice_number: int) -> int:
    """Tell slices apart: 21 for the first, 120 for the hundredth."""
    return 20 + slice_number


def with_boxes(report: ReportDocument) -> ReportDocument:
    """Put finding 1 where the pictures are brighter, the others elsewhere."""
    first, *others = report.findings
    boxes = (Box(*(1000 * value / SIDE_PX for value in BOX_PX)), Box(600, 600, 800, 700), Box(600, 450, 700, 500))
    findings = [replace(each, box=box) for each, box in zip((first, *others), boxes, strict=True)]
    return replace(report, findings=tuple(findings))


def a_gallery(series: SeriesReport, name: str = "stack-0123456789abcdef", side_px: int = SIDE_PX) -> Gallery:
    """Keep 256 values in 256 levels, and show them as they are."""
    return Gallery(
        name=name,
        slices=slices_digest((fate.sop_instance_uid, fate.frame_index) for fate in series.slices),
        series_uid=CHEST,
        views=tuple(view.name for view in series.views),
        plane="axial",
        slice_count=len(series.slices),
        side_px=side_px,
        mm_per_px=1.5,
        positions_mm=tuple(fate.position_mm or 0.0 for fate in series.slices),
        spacing_mm=3.0,
        values=tuple(float(level) for level in range(256)),
        inverted=False,
        unit="HU",
        windows=(GalleryWindow("whole", 127.5, 255.0), GalleryWindow("bright", 227.5, 55.0)),
    )


@cache
def a_picture(slice_number: int) -> bytes:
    """One slice as JPEG."""
    grey = np.full((SIDE_PX, SIDE_PX), grey_of(slice_number), np.uint8)
    x1, y1, x2, y2 = BOX_PX
    if slice_number == KEY_SLICE:
        grey[y1:y2, x1:x2] = BOX_GREY
    return encode_image(grey, "jpeg", quality=95)


def write_page(folder: Path, report: ReportDocument | None = None) -> Path:
    """Write a report with its gallery and return its page."""
    report = with_boxes(a_report()) if report is None else report
    study = folder / "p" / report.study.key
    gallery = a_gallery(report.series[0])
    write_galleries(study, [gallery], lambda _: map(a_picture, range(1, gallery.slice_count + 1)))
    write_study(study, report, pictures(report))
    return write_patient_page(folder / "p", deidentify=False)


def a_partly_read_report() -> ReportDocument:
    """Slices 1 to 55 read, 56 to 100 not."""
    return with_boxes(a_partial_report())
