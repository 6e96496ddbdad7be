"""Reports with known content: several findings, none, partial, Chinese, hostile."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from medvl.records import Box, Finding, Note, Patient, ReaderIdentity
from medvl.report.document import (
    FORMAT,
    Impression,
    KeyImage,
    Provenance,
    ReadIn,
    ReportDocument,
    Sentence,
    SeriesReport,
    SliceFate,
    StudyFacts,
    Timing,
    UnreadFile,
    ViewReport,
)
from medvl.report.images import contact_sheet, encode_image
from medvl.report.notes import report_note

CHEST = "1.2.826.0.1.3680043.8.498.1"
SCOUT = "1.2.826.0.1.3680043.8.498.2"
LUNG = "lung WL −600 WW 1500"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202eevil\u0000\x1b[31m"
CHUNK_SLICES = 10
CHUNK_STEP = 9  # one slice of overlap


def a_finding(number: int = 1, **changes: Any) -> Finding:
    finding = Finding(
        number=number,
        observation="Solid nodule",
        site="right upper lobe, posterior segment",
        side="right",
        side_said="right",
        certainty="probable",
        description="Well defined, smooth margin, no calcification.",
        series_uid=CHEST,
        view="lung",
        first_slice=41,
        last_slice=44,
        key_slice=42,
        sop_instance_uid=f"{CHEST}.42",
        frame_index=0,
        box=Box(300, 400, 360, 450),
        box_stored_px=(153.6, 204.8, 184.3, 230.4),
        center_lps_mm=(-61.5, 12.0, -118.0),
        width_mm=12.4,
        height_mm=9.6,
        depth_mm=12.0,
        confidence=0.873,
        wording_probability=0.641,
        chunks=(4,),
    )
    return replace(finding, **changes)


A_GAP = report_note(Note("gap", (("slice", 57), ("mm", 6.0))))


def a_series(slice_count: int = 100, chunks_read: int | None = None, *, interrupted: str = "") -> SeriesReport:
    """A lung view in chunks of ten slices with one of overlap; slices of later chunks carry `interrupted`."""
    chunk_count = -(-(slice_count - 1) // CHUNK_STEP)
    chunks_read = chunk_count if chunks_read is None else chunks_read
    return SeriesReport(
        uid=CHEST,
        number=3,
        modality="CT",
        description="Thorax 3.0 B60f",
        body_part="CHEST",
        plane="axial",
        rows=512,
        columns=512,
        frame_count=slice_count,
        slice_spacing_mm=3.0,
        slice_thickness_mm=3.0,
        pixel_spacing_mm=(0.703125, 0.703125),
        chosen=True,
        reason="the sharpest complete axial series; the prompt asks for lung",
        notes=(A_GAP,),
        views=(
            ViewReport(
                name="lung",
                windows=(LUNG,),
                size_px=512,
                mm_per_px=0.703,
                slab_count=slice_count,
                slab_mm=None,
                chunk_count=chunk_count,
                chunks_read=chunks_read,
                prompt="chest_ct_en",
                prompt_digest="9f2c41d07ab3",
                prompt_reason="modality CT, Body Part Examined (0018,0015) CHEST",
                contact_sheet="lung-sheet.webp",
                problems=("chunk 7: the reply named slice 912, which is not in the chunk; that finding was dropped",),
            ),
        ),
        slices=tuple(_fate(number, chunks_read, interrupted) for number in range(1, slice_count + 1)),
    )


def _fate(number: int, chunks_read: int, interrupted: str) -> SliceFate:
    own = (number - 1) // CHUNK_STEP
    chunks = (own - 1, own) if (number - 1) % CHUNK_STEP == 0 else (own,)
    reads = tuple(ReadIn("lung", chunk, number, 1) for chunk in chunks if 0 <= chunk < chunks_read)
    return SliceFate(
        file=f"CT_case/1-{number:03}.dcm",
        sop_instance_uid=f"{CHEST}.{number}",
        frame_index=0,
        slice=number,
        position_mm=-3.0 * number + 8.0,
        read_in=reads,
        not_read_because="" if reads else interrupted,
    )


def a_scout() -> SeriesReport:
    reason = "localizer: Image Type (0008,0008) holds LOCALIZER"
    fates = tuple(
        SliceFate(f"CT_case/scout-{number}.dcm", f"{SCOUT}.{number}", 0, None, None, (), reason) for number in (1, 2)
    )
    return SeriesReport(
        SCOUT,
        1,
        "CT",
        "Topogram",
        "CHEST",
        "coronal",
        512,
        888,
        2,
        None,
        None,
        (0.5, 0.5),
        False,
        reason,
        (),
        (),
        fates,
    )


def a_report(**changes: Any) -> ReportDocument:
    """Three findings in one hundred slices of a chest CT."""
    findings = (
        a_finding(1),
        a_finding(
            2,
            observation="Pleural effusion",
            site="left costophrenic recess",
            side="left",
            side_said="right",
            certainty="definite",
            description="Crescent of fluid, dependent.",
            first_slice=78,
            last_slice=96,
            key_slice=88,
            width_mm=84.0,
            height_mm=31.2,
            depth_mm=57.0,
            confidence=0.941,
            notes=("seen in two chunks and joined",),
        ),
        a_finding(
            3,
            observation="Ground-glass nodule",
            site="left lower lobe",
            side="left",
            side_said="left",
            certainty="possible",
            description="",
            first_slice=63,
            last_slice=63,
            key_slice=63,
            width_mm=5.6,
            height_mm=6.1,
            depth_mm=3.0,
            confidence=0.412,
            wording_probability=0.38,
            notes=("seen by one of the two chunks that hold slice 64",),
        ),
    )
    boxes = ((0.30, 0.40, 0.36, 0.45), (0.66, 0.60, 0.86, 0.72), (0.64, 0.50, 0.68, 0.54))
    report = ReportDocument(
        format=FORMAT,
        language="en",
        patient=Patient(id="MRN-4711", name="Doe^Jane", birth_date="19800302", sex="F", key="p7f3a9c2"),
        study=StudyFacts(f"{CHEST}.0", "s1b2c3d4", "20261122", "101500.25", "CT Thorax with contrast", "ACC-0815"),
        status="complete",
        warnings=(),
        impression=Impression(
            sentences=(
                Sentence("Probable 12 mm solid nodule in the right upper lobe.", (1,)),
                Sentence(
                    "Left pleural effusion, and a possible small ground-glass nodule in the left lower lobe.", (2, 3)
                ),
            ),
            written_by="model",
        ),
        findings=findings,
        key_images=tuple(
            KeyImage(f.number, f"finding-{f.number}.webp", LUNG, f.key_slice, 8.0 - 3 * f.key_slice, box)
            for f, box in zip(findings, boxes, strict=True)
        ),
        series=(a_series(), a_scout()),
        unread_files=(
            UnreadFile("CT_case/DICOMDIR", "a directory of the medium, not an image", "", 1),
            UnreadFile("CT_case/SR/dose.dcm", "a dose report (Structured Report), not an image", "1.2.3", 1),
        ),
        provenance=Provenance(
            medvl_version="0.1.0",
            reader=ReaderIdentity(
                model="Qwen/Qwen3-VL-8B-Instruct",
                fingerprint="b3c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c",
                precision="int8 (bitsandbytes), vision tower and lm_head bf16",
                device="NVIDIA H200",
                generation="greedy",
                versions=(("torch", "2.13.0"), ("transformers", "5.23.0")),
            ),
            settings=(("chunk", "auto (10)"), ("series", "auto"), ("size", "512 px"), ("slab", "off")),
        ),
        timing=Timing("2026-11-23T07:20:10+00:00", "2026-11-23T07:22:22+00:00", 132.4, 118.0, 5321),
    )
    return replace(report, **changes)


def a_report_without_findings(**changes: Any) -> ReportDocument:
    impression = Impression((Sentence("No finding was reported in the 100 of 100 slices read.", ()),), "template")
    return a_report(findings=(), key_images=(), impression=impression, **changes)


def a_partial_report() -> ReportDocument:
    """Stopped after chunk 6 of 11."""
    series = a_series(chunks_read=6, interrupted="the run was interrupted before this chunk")
    return a_report(
        status="partial",
        series=(series, a_scout()),
        warnings=("The demo model is untrained: its findings are meaningless.",),
    )


def a_chinese_report() -> ReportDocument:
    report = a_report(language="zh")
    first, *others = report.findings
    nodule = replace(first, observation="实性结节", site="右肺上叶后段", description="边界清楚，边缘光滑，无钙化。")
    return replace(
        report,
        patient=replace(report.patient, name="Wang^XiaoDong=王^小东"),
        study=replace(report.study, description="胸部 CT 增强", date="20270103", key="s9e8d7c6"),
        impression=Impression((Sentence("右肺上叶实性结节，约 12 mm。", (1,)),), "template", "模型的回复无法使用。"),
        findings=(nodule, *others),
    )


def a_hostile_report() -> ReportDocument:
    """Markup, controls and 10^5 characters wherever a header or a reply puts text."""
    endless = "W" * 100_000
    report = a_report(warnings=(HOSTILE,))
    findings = (
        a_finding(1, observation=HOSTILE, site=endless, description=endless, notes=(HOSTILE,), view=HOSTILE),
        *report.findings[1:],
    )
    series = report.series[0]
    slices = tuple(
        replace(fate, read_in=tuple(replace(read, view=HOSTILE) for read in fate.read_in)) for fate in series.slices
    )
    view = replace(series.views[0], name=HOSTILE, prompt_reason=HOSTILE, problems=(endless, HOSTILE))
    return replace(
        report,
        patient=replace(report.patient, name=f"{HOSTILE}^{endless}", id=HOSTILE),
        study=replace(report.study, description=HOSTILE, date=HOSTILE, accession=HOSTILE),
        impression=Impression((Sentence(HOSTILE, (1,)),), "model", HOSTILE),
        findings=findings,
        series=(replace(series, description=HOSTILE, reason=HOSTILE, views=(view,), slices=slices), report.series[1]),
        unread_files=(UnreadFile("bad-\udce9.dcm", HOSTILE, HOSTILE, 1),),
    )


def pictures(report: ReportDocument) -> dict[str, bytes]:
    """A picture for every name the report uses."""
    picture, sheet = _picture_and_sheet()
    images = {image.file: picture for image in report.key_images}
    return images | {view.contact_sheet: sheet for series in report.series for view in series.views}


@cache
def _picture_and_sheet() -> tuple[bytes, bytes]:
    """A bright disc on a noisy ground, once and in two rows of six."""
    rows, columns = np.mgrid[:512, :512]
    noise = np.random.default_rng(7).normal(0, 8, (512, 512))
    disc = ((rows - 256) ** 2 + (columns - 256) ** 2 < 200**2) * 90
    grey = np.clip(30 + disc + noise, 0, 255).astype(np.uint8)
    sheet = encode_image(contact_sheet([grey] * 12, [str(number) for number in range(1, 13)], 6))
    return encode_image(grey), sheet
