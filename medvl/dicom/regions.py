"""Tells where (0018,0015) Body Part Examined and a series' description name different parts of the body.

A few regions that no one scan confuses; words for what spans several, such as spine or trunk, count for none.
"""

from __future__ import annotations

import re

# Region: how its words begin, in DICOM's defined terms (PS3.16 annex L) and in descriptions people write.
_REGIONS = {
    "head": ("head", "brain", "skull", "cranial", "cerebr", "sinus", "orbit", "schadel", "schädel", "kopf"),
    "chest": ("chest", "thorax", "lung", "pulmon", "heart", "cardiac", "coronar"),
    "abdomen": ("abdom", "liver", "kidney", "renal", "pancrea", "pelvi", "prostat", "bladder", "urolog"),
    "limb": ("knee", "ankle", "foot", "wrist", "hand", "elbow", "femur", "tibia", "calf", "forearm"),
}


def contradiction(body_part: str, description: str) -> tuple[str, str] | None:
    """Return the regions that tag and description name if no region is in both; None if they agree or say nothing."""
    tagged, described = _regions(body_part), _regions(description)
    if not tagged or not described or tagged & described:
        return None
    return min(tagged), min(described)


def _regions(text: str) -> set[str]:
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))
    folded = [word.casefold() for word in words]
    return {
        region
        for region, starts in _REGIONS.items()
        for start in starts
        if any(start in word if len(start) > 4 else word.startswith(start) for word in folded)
    }
