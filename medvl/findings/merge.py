"""One lesion, one finding: what chunks, windows, phases and series say of the same place.

Readings that disagree are kept side by side and marked in the notes; nothing is averaged and nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from medvl.findings.places import Scene, Scenes, box_area
from medvl.findings.wording import are_compatible
from medvl.records import Finding


def merge_findings(findings: Iterable[Finding], scenes: Iterable[Scene] = ()) -> tuple[Finding, ...]:
    """Merge the findings of all chunks and views of a study, and number them from 1.

    scenes: what was looked at. With them, findings of different stacks and series are one where they share a Frame of
    Reference (0020,0052) and a place; without, those of different series stay apart.
    The order in which they come does not matter. Merging again changes nothing. Result: by series, first slice, then
    position. Notes say what was reported otherwise, elsewhere, only once, or missed by a chunk that showed it, too.
    """
    known = Scenes(scenes)
    lesions = [_Lesion(finding, (finding,)) for finding in sorted(findings, key=_order)]
    while True:
        groups = _group(lesions, known)
        lesions = sorted((_fuse(group, known) for group in groups), key=lambda lesion: _order(lesion.finding))
        if all(len(group) == 1 for group in groups):
            return _marked(lesions, known)


def is_same_lesion(one: Finding, other: Finding, scenes: Scenes) -> bool:
    """Tell whether two findings may be one lesion: one place, compatible words."""
    return scenes.is_same_place(one, other) and are_compatible(one.observation, other.observation)


@dataclass(frozen=True, slots=True)
class _Lesion:
    """A finding and those it was made of, as the chunks reported them."""

    finding: Finding
    members: tuple[Finding, ...]


def _group(lesions: Sequence[_Lesion], scenes: Scenes) -> list[list[_Lesion]]:
    """Return the lesions in groups that hang together, pair by pair."""
    groups: list[list[_Lesion]] = []
    for lesion in lesions:
        joined, apart = [lesion], []
        for group in groups:
            if any(is_same_lesion(lesion.finding, member.finding, scenes) for member in group):
                joined += group
            else:
                apart.append(group)
        groups = [*apart, joined]
    return groups


# --- one finding of several ----------------------------------------------------------------------------------------


def _fuse(group: Sequence[_Lesion], scenes: Scenes) -> _Lesion:
    """Return one lesion that speaks for the group.

    Picture, place and words are those of the largest box: a chunk that ends inside a lesion sees only its rim, however
    sure it is. Slices are those of everyone in its stack, probabilities the highest.
    """
    if len(group) == 1:
        return group[0]
    findings = sorted((lesion.finding for lesion in group), key=_order)
    key = max(findings, key=_seen)
    here = [finding for finding in findings if scenes.is_same_stack(finding, key)]
    extents = [finding.extent_mm for finding in here if finding.extent_mm is not None]
    extent = (min(low for low, _ in extents), max(high for _, high in extents)) if extents else None
    fused = replace(
        key,
        first_slice=min(finding.first_slice for finding in here),
        last_slice=max(finding.last_slice for finding in here),
        extent_mm=extent,
        depth_mm=extent and extent[1] - extent[0],
        confidence=_highest(finding.confidence for finding in findings),
        wording_probability=_highest(finding.wording_probability for finding in findings),
        chunks=tuple(sorted({chunk for finding in here for chunk in finding.chunks})),
        notes=_unique(*key.notes, *(note for finding in findings for note in finding.notes)),
    )
    return _Lesion(fused, tuple(member for lesion in group for member in lesion.members))


def _seen(finding: Finding) -> tuple[object, ...]:
    """Order findings by how much of the lesion they show; in one stack boxes are as good as millimetres."""
    square_mm = (finding.width_mm or 0.0) * (finding.height_mm or 0.0)
    probabilities = (finding.confidence or 0.0, finding.wording_probability or 0.0)
    return (square_mm, box_area(finding.box), *probabilities, _order(finding))


def _highest(probabilities: Iterable[float | None]) -> float | None:
    return max((each for each in probabilities if each is not None), default=None)


def _order(finding: Finding) -> tuple[object, ...]:
    """Return where a finding stands in the report; the later parts only settle ties, whatever the input's order."""
    box = finding.box
    place = (finding.first_slice, finding.last_slice, finding.key_slice, box.y1, box.x1, box.y2, box.x2)
    words = (finding.observation, finding.site, finding.side, finding.side_said, finding.description, finding.certainty)
    return (finding.series_uid, *place, *words, finding.view, finding.chunks, finding.notes)


# --- what readings disagree on -------------------------------------------------------------------------------------


def _marked(lesions: Sequence[_Lesion], scenes: Scenes) -> tuple[Finding, ...]:
    """Number the findings and add to each what speaks against it, or was said of it elsewhere."""
    numbered = [replace(lesion.finding, number=number) for number, lesion in enumerate(lesions, 1)]
    marked = []
    for finding, lesion in zip(numbered, lesions, strict=True):
        members = sorted(lesion.members, key=_order)
        said = (
            *_otherwise(finding, members, scenes),
            *_elsewhere(finding, members, scenes),
            *_alone(finding, members, scenes),
            *_missed(finding, members, scenes),
            *_contradicted(finding, numbered, scenes),
        )
        marked.append(replace(finding, notes=_unique(*finding.notes, *said)))
    return tuple(marked)


def _otherwise(finding: Finding, members: Sequence[Finding], scenes: Scenes) -> Iterator[str]:
    """Say which members had other words or another side."""
    for member in members:
        if member.observation.casefold() != finding.observation.casefold():
            place = _picture_name(member, finding, scenes)
            yield f"also reported as “{member.observation}” on slice {member.key_slice} ({place})"
    for member in members:
        if member.side != finding.side:
            place = _picture_name(member, finding, scenes)
            yield f"the side was also given as {member.side} on slice {member.key_slice} ({place})"


def _elsewhere(finding: Finding, members: Sequence[Finding], scenes: Scenes) -> Iterator[str]:
    """Say in which other stacks and series the lesion was seen."""
    slices: dict[str, tuple[int, int]] = {}
    for member in members:
        if not scenes.is_same_stack(member, finding):
            name = _picture_name(member, finding, scenes)
            first, last = slices.get(name, (member.first_slice, member.last_slice))
            slices[name] = min(first, member.first_slice), max(last, member.last_slice)
    for name, (first, last) in slices.items():
        yield f"also seen on {_slices(first, last)} ({name})"


def _alone(finding: Finding, members: Sequence[Finding], scenes: Scenes) -> Iterator[str]:
    """Say that a finding has a single picture for a witness, where its neighbours were read, too."""
    scene = scenes.of(finding)
    if len(members) > 1 or scene is None or finding.extent_mm is None or len(scene.pictures) == 1:
        return
    if any(first <= finding.first_slice and finding.last_slice <= last for first, last in scene.pictures):
        yield "reported once, on a single picture; its neighbours were read, too"


def _missed(finding: Finding, members: Sequence[Finding], scenes: Scenes) -> Iterator[str]:
    """Say which chunks showed slices of the finding, through the same window, and did not report it."""
    views = {member.view: scenes.of(member) for member in members if scenes.is_same_stack(member, finding)}
    for view, scene in views.items():
        reported = {chunk for member in members if scenes.of(member) is scene for chunk in member.chunks}
        for chunk, pictures in scene.chunks.items() if scene else ():
            shown = [picture for picture in pictures if _meet(picture, (finding.first_slice, finding.last_slice))]
            if shown and chunk not in reported:
                first = max(finding.first_slice, min(first for first, _ in shown))
                last = min(finding.last_slice, max(last for _, last in shown))
                yield f"{_slices(first, last)} read in chunk {chunk + 1}, too ({view}), which did not report it"


def _contradicted(finding: Finding, all_findings: Sequence[Finding], scenes: Scenes) -> Iterator[str]:
    """Say which other names, that cannot mean the same, findings give to the same place; numbers may still change."""
    for other in all_findings:
        if other is not finding and scenes.is_same_place(finding, other):
            yield f"another finding has another name for this place: “{other.observation}”"


def _picture_name(member: Finding, finding: Finding, scenes: Scenes) -> str:
    """Name a member's view, and its series where that is not the finding's."""
    scene = scenes.of(member)
    return f"{scene.series_name}, {member.view}" if scene and member.series_uid != finding.series_uid else member.view


def _slices(first: int, last: int) -> str:
    return f"slice {first}" if first == last else f"slices {first}–{last}"


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _unique(*notes: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(notes))
