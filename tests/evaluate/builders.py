"""Lesions, findings and studies with round numbers, and a reader that knows the truth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from medvl.evaluate.acquisition import STORAGES, Acquisition, slice_plane
from medvl.evaluate.phantoms import Lesion, Phantom, Wish, draw_phantom
from medvl.evaluate.write import TrueLesion, Truth
from medvl.records import Finding, Request
from tests.findings.builders import make_finding

SMALL = Acquisition(
    pixel_spacing_mm=3.0,
    blur_mm=3.0,
    size_px=128,
    slice_thickness_mm=3.0,
    slice_spacing_mm=3.0,
    slice_count=12,
    noise_hu=0.0,
)


def lesion(x: float = 0.0, **changed: Any) -> TrueLesion:
    """A solid nodule of 12 mm at (x, 0, 0), on the side that x says, in the slice "1.1"."""
    values: dict[str, Any] = {
        "kind": "solid nodule",
        "center_lps_mm": (x, 0.0, 0.0),
        "diameter_mm": 12.0,
        "side": "left" if x > 0 else "right",
        "hu": 40.0,
        "sop_instance_uids": ("1.1",),
    }
    return TrueLesion(**(values | changed))


def finding(x: float = 0.0, confidence: float | None = 0.9, **changed: Any) -> Finding:
    """A finding of 12 × 12 mm centred at (x, 0, 0) in the slice "1.1", with the side right in both ways."""
    side = "left" if x > 0 else "right"
    values: dict[str, Any] = {
        "center_lps_mm": (x, 0.0, 0.0),
        "confidence": confidence,
        "width_mm": 12.0,
        "height_mm": 12.0,
        "side": side,
        "side_said": side,
        "sop_instance_uid": "1.1",
        "observation": "solid nodule",
    }
    return make_finding(**(values | changed))


def truth(*lesions: TrueLesion) -> Truth:
    return Truth(seed=1, study_uid="1.2", series_uid="1.3", lesions=lesions)


def draw_small(seed: int) -> tuple[Phantom, Acquisition]:
    """A normal chest for every third seed, else one nodule; twelve slices in 36 mm, stored in every way."""
    wishes = [] if seed % 3 == 0 else [Wish("solid nodule", 18.0, "left" if seed % 3 == 1 else "right")]
    phantom = draw_phantom(seed, wishes)
    middle = phantom.lesions[0].center_lps_mm[2] if phantom.lesions else phantom.origin_lps_mm[2]
    bottom = round(middle - phantom.origin_lps_mm[2] - 16.5, 2)
    return phantom, replace(SMALL, bottom_mm=bottom, storage=STORAGES[seed % len(STORAGES)])


def answers_from_truth(
    studies: Sequence[tuple[Phantom, Acquisition]], entry_of: Callable[[Lesion], dict[str, Any]] = lambda _: {}
) -> Callable[[Request], str]:
    """Return a script for a reader that never looks: it knows which slices of which study hold what.

    entry_of: what it says otherwise of a lesion.
    """

    def answer(request: Request) -> str:
        heights = [float(found) for part in request.parts if isinstance(part, str) for found in _heights(part)]
        phantom, acquisition = next(study for study in studies if _holds(study, heights))
        entries = [_entry(one, acquisition, phantom, heights) | entry_of(one) for one in phantom.lesions]
        seen = [entry for entry in entries if entry["slice"]]
        return json.dumps({"findings": seen})

    return answer


def _heights(part: str) -> list[str]:
    return re.findall(r"^SLICE \d+ \(z = (-?[\d.]+) mm\)", part)


def _holds(study: tuple[Phantom, Acquisition], heights: Sequence[float]) -> bool:
    phantom, acquisition = study
    known = [slice_plane(phantom, acquisition, i).position_lps_mm[2] for i in range(acquisition.slice_count)]
    return all(any(abs(height - z) < 0.06 for z in known) for height in heights)


def _entry(one: Lesion, acquisition: Acquisition, phantom: Phantom, heights: Sequence[float]) -> dict[str, Any]:
    x, y, z = one.center_lps_mm
    inside = [k for k, height in enumerate(heights, 1) if abs(height - z) <= one.diameter_mm / 2]
    radius, field_mm = one.diameter_mm / 2, acquisition.pixel_spacing_mm * acquisition.size_px
    left = phantom.origin_lps_mm[0] + acquisition.offset_mm[0] - field_mm / 2
    top = phantom.origin_lps_mm[1] + acquisition.offset_mm[1] - field_mm / 2
    corners = (x - radius - left, y - radius - top, x + radius - left, y + radius - top)
    return {
        "slice": min(inside, key=lambda k: abs(heights[k - 1] - z), default=0),
        "bbox_2d": [round(1000 * corner / field_mm) for corner in corners],
        "first_slice": min(inside, default=0),
        "last_slice": max(inside, default=0),
        "observation": one.kind,
        "site": f"{one.side} lung",
        "side": one.side,
        "certainty": "definite",
        "description": "Round.",
    }
