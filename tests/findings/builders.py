"""A stack, a chunk and replies with round numbers: 1000 px pictures, 0.5 mm a pixel, body from 100 to 900."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medvl.findings.measure import Silhouette
from medvl.findings.parse import ChunkContext
from medvl.records import (
    Box,
    Chunk,
    DisplayTurn,
    Finding,
    Frame,
    PictureGeometry,
    PixelLayout,
    Plane,
    PlaneName,
    Series,
    Slab,
    Slice,
    Source,
    Stack,
)

LAYOUT = PixelLayout("1.2.840.10008.1.2.1", 0, 0, 16, 16, True, 1, "MONOCHROME2", 1)
BODY = Silhouette(midline_px=500, width_px=800)


def make_slice(number: int, *, plane: bool = True) -> Slice:
    """Slice `number` lies at z = −2·number mm and is 3 mm thick."""
    z = -2.0 * number
    frame = Frame(
        source=Source(Path("a.dcm"), "a.dcm"),
        index=0,
        sop_instance_uid=f"1.2.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        rows=500,
        columns=500,
        layout=LAYOUT,
        plane=Plane((0.0, 0.0, z), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)) if plane else None,
        slice_thickness_mm=3.0 if plane else None,
    )
    return Slice(number, frame, z)


def make_geometry(z: float = 0.0, *, plane: bool = True) -> PictureGeometry:
    """A 1000 px picture of a 500 px frame of 1 mm pixels; x = 500 is the patient's x = 0."""
    return PictureGeometry(
        size_px=1000,
        stored_from_px=(0.5, 0.0, -0.5, 0.0, 0.5, -0.5),
        lps_from_px=((0.5, 0.0, -250.0), (0.0, 0.5, -250.0), (0.0, 0.0, z)) if plane else None,
        mm_per_px=0.5 if plane else None,
    )


def make_context(
    *, slabs: int = 4, per_slab: int = 1, plane: PlaneName = "axial", silhouette: Any = BODY
) -> ChunkContext:
    """A chunk that begins with slice 11."""
    placed = plane != "projection"
    groups = [
        tuple(make_slice(11 + slab * per_slab + part, plane=placed) for part in range(per_slab))
        for slab in range(slabs)
    ]
    series = Series("1.9", 1, "CT", "", "", ())
    stack = Stack(series, sum(groups, ()), plane, DisplayTurn(), 2.0 if placed else None)
    chunk = Chunk(2, tuple(Slab(number, group) for number, group in enumerate(groups, 1)))
    geometries = tuple(make_geometry(slab.middle.distance_mm, plane=placed) for slab in chunk.slabs)
    return ChunkContext(stack, "lung", chunk, geometries, (silhouette,) * slabs)


def make_entry(**changed: object) -> dict[str, object]:
    entry: dict[str, object] = {
        "slice": 2,
        "bbox_2d": [200, 400, 240, 420],
        "first_slice": 1,
        "last_slice": 3,
        "observation": "solid nodule",
        "site": "right upper lobe",
        "side": "right",
        "certainty": "probable",
        "description": "Smooth margin.",
    }
    return entry | changed


def make_reply(*entries: dict[str, object]) -> str:
    return json.dumps({"findings": entries}, ensure_ascii=False)


def make_finding(**changed: object) -> Finding:
    """A 20 × 10 mm nodule whose box centre lies at x = −140, y = −45 mm, on slices 11 to 13."""
    values: dict[str, Any] = {
        "number": 0,
        "observation": "nodule",
        "site": "right upper lobe",
        "side": "right",
        "side_said": "right",
        "certainty": "probable",
        "description": "",
        "series_uid": "1.9",
        "view": "lung",
        "first_slice": 11,
        "last_slice": 13,
        "key_slice": 12,
        "sop_instance_uid": "1.2.12",
        "frame_index": 0,
        "box": Box(200, 400, 240, 420),
        "box_stored_px": (99.5, 199.5, 119.5, 209.5),
        "center_lps_mm": (-140.0, -45.0, -24.0),
        "width_mm": 20.0,
        "height_mm": 10.0,
        "depth_mm": 7.0,
        "confidence": 0.5,
        "wording_probability": 0.5,
        "chunks": (2,),
        "extent_mm": (-27.5, -20.5),
    }
    return Finding(**(values | changed))
