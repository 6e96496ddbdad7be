"""One lesion, one finding: what overlapping chunks, neighbouring chunks and other windows say of the same place.

Readings that disagree are kept side by side in the notes; nothing is averaged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from medvl.findings.wording import are_compatible
from medvl.records import Box, Finding

_NEAR_MM = 5.0  # centres of a small lesion in two readings differ by this much at most
_SAME_BOX_IOU = 0.3  # without millimetres


def merge_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Merge the findings of all chunks and views of a study, and number them from 1.

    The order in which they come does not matter. Merging again changes nothing. Findings of different series stay
    apart. Result: by series, first slice, then position.
    """
    merged = sorted(findings, key=_order)
    while True:
        groups = _group(merged)
        merged = sorted((_fuse(group) for group in groups), key=_order)
        if all(len(group) == 1 for group in groups):
            return tuple(replace(finding, number=number) for number, finding in enumerate(merged, 1))


def is_same_lesion(one: Finding, other: Finding) -> bool:
    """Tell whether two findings may be one lesion: one series, touching slices, near in the plane, compatible words."""
    return (
        one.series_uid == other.series_uid
        and one.first_slice <= other.last_slice + 1
        and other.first_slice <= one.last_slice + 1
        and _is_same_place(one, other)
        and are_compatible(one.observation, other.observation)
    )


def _group(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Return the findings in groups that hang together, pair by pair."""
    groups: list[list[Finding]] = []
    for finding in findings:
        joined, apart = [finding], []
        for group in groups:
            if any(is_same_lesion(finding, member) for member in group):
                joined += group
            else:
                apart.append(group)
        groups = [*apart, joined]
    return groups


# --- the same place ------------------------------------------------------------------------------------------------


def _is_same_place(one: Finding, other: Finding) -> bool:
    if one.extent_mm is None or other.extent_mm is None:  # neighbours by number only: two X-rays may be two views
        return _picture(one) == _picture(other) and _overlap(one.box, other.box) >= _SAME_BOX_IOU
    apart_mm = _distance_in_plane_mm(one, other)
    if apart_mm is None or one.center_lps_mm is None or other.center_lps_mm is None:
        return _overlap(one.box, other.box) >= _SAME_BOX_IOU
    allowed_mm = max(_NEAR_MM, (_diameter_mm(one) + _diameter_mm(other)) / 4)
    # Stacks of one series in different planes share slice numbers; in space such findings lie far apart.
    along_mm = (one.depth_mm or math.inf) + (other.depth_mm or math.inf)
    in_space_mm = math.dist(one.center_lps_mm, other.center_lps_mm)
    return apart_mm <= allowed_mm and in_space_mm <= math.hypot(allowed_mm, along_mm)


def _distance_in_plane_mm(one: Finding, other: Finding) -> float | None:
    """Return how far apart the centres of the boxes are; every picture of a stack shows the same field of view."""
    if one.width_mm is None or other.width_mm is None:
        return None
    units = one.box.x2 - one.box.x1 + other.box.x2 - other.box.x1
    return math.dist(_center(one.box), _center(other.box)) * (one.width_mm + other.width_mm) / units


def _picture(finding: Finding) -> tuple[str, int, int]:
    return finding.sop_instance_uid, finding.frame_index, finding.key_slice


def _diameter_mm(finding: Finding) -> float:
    return ((finding.width_mm or 0) + (finding.height_mm or 0)) / 2


def _center(box: Box) -> tuple[float, float]:
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2


def _area(box: Box) -> float:
    return max(box.x2 - box.x1, 0) * max(box.y2 - box.y1, 0)


def _overlap(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes."""
    common = _area(Box(max(one.x1, other.x1), max(one.y1, other.y1), min(one.x2, other.x2), min(one.y2, other.y2)))
    return common / (_area(one) + _area(other) - common)


# --- one finding of several ----------------------------------------------------------------------------------------


def _fuse(group: Sequence[Finding]) -> Finding:
    """Return one finding that speaks for the group.

    Picture, place and words are those of the largest box: a chunk that ends inside a lesion sees only its rim, however
    sure it is. Slices are everyone's, probabilities the highest.
    """
    key = max(group, key=_seen)
    if len(group) == 1:
        return key
    extents = [finding.extent_mm for finding in group if finding.extent_mm is not None]
    extent = (min(low for low, _ in extents), max(high for _, high in extents)) if extents else None
    return replace(
        key,
        first_slice=min(finding.first_slice for finding in group),
        last_slice=max(finding.last_slice for finding in group),
        extent_mm=extent,
        depth_mm=extent and extent[1] - extent[0],
        confidence=_highest(finding.confidence for finding in group),
        wording_probability=_highest(finding.wording_probability for finding in group),
        chunks=tuple(sorted({chunk for finding in group for chunk in finding.chunks})),
        notes=_notes(key, sorted(group, key=_order)),
    )


def _notes(key: Finding, group: Sequence[Finding]) -> tuple[str, ...]:
    inherited = [note for finding in group for note in finding.notes]
    other_words = [
        f"also reported as “{finding.observation}” on slice {finding.key_slice} ({finding.view})"
        for finding in group
        if finding.observation.casefold() != key.observation.casefold()
    ]
    other_sides = [
        f"the side was also given as {finding.side} on slice {finding.key_slice} ({finding.view})"
        for finding in group
        if finding.side != key.side
    ]
    return tuple(dict.fromkeys((*key.notes, *inherited, *other_words, *other_sides)))


def _seen(finding: Finding) -> tuple[object, ...]:
    return (_area(finding.box), finding.confidence or 0.0, finding.wording_probability or 0.0, _order(finding))


def _highest(probabilities: Iterable[float | None]) -> float | None:
    return max((each for each in probabilities if each is not None), default=None)


def _order(finding: Finding) -> tuple[object, ...]:
    """Return where a finding stands in the report; the later parts only settle ties, whatever the input's order."""
    box = finding.box
    place = (finding.first_slice, finding.last_slice, finding.key_slice, box.y1, box.x1, box.y2, box.x2)
    words = (finding.observation, finding.site, finding.side, finding.side_said, finding.description, finding.certainty)
    return (finding.series_uid, *place, *words, finding.view, finding.chunks, finding.notes)
