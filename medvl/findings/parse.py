"""One reply to findings. Nothing the model wrote is trusted: what cannot be placed is dropped, and said.

Any text is accepted; none raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from medvl.findings.measure import Silhouette, judge_side, measure_box
from medvl.findings.probability import TokenMap
from medvl.findings.recover import Item, recover_items
from medvl.findings.schema import (
    BOX_UNITS,
    CERTAINTIES,
    DESCRIPTION_CHARACTERS,
    MAX_FINDINGS,
    OBSERVATION_CHARACTERS,
    SIDES,
    SITE_CHARACTERS,
)
from medvl.findings.sizes import typed_size_mm
from medvl.findings.wording import is_absence
from medvl.records import (
    Box,
    Certainty,
    Chunk,
    Finding,
    ParsedReply,
    PictureGeometry,
    Side,
    Stack,
    Token,
)
from medvl.text import clean_text

_Word = TypeVar("_Word", bound=str)
_FIELDS = frozenset({"slice", "bbox_2d", "observation"})
_LOOP = re.compile(r"(\D{3,40}?)\1{3,}")  # the same words four times running: the model was caught in a loop


@dataclass(frozen=True, slots=True)
class ChunkContext:
    """What the numbers in a reply refer to. One geometry and one silhouette for each slab of the chunk."""

    stack: Stack
    view: str
    chunk: Chunk
    geometries: tuple[PictureGeometry, ...]
    silhouettes: tuple[Silhouette | None, ...]


@dataclass(frozen=True, slots=True)
class _Claim:
    """A finding as the model gave it, once its values are of the right kind. Slices are 1-based in the chunk."""

    slice: int
    first_slice: int
    last_slice: int
    box: Box
    observation: str
    site: str
    side: Side
    certainty: Certainty
    description: str


def parse_reply(text: str, tokens: Sequence[Token], context: ChunkContext) -> ParsedReply:
    """Parse the reply to one chunk into findings tied to slices, pixels and millimetres.

    text: as the reader gave it. tokens: whose texts run together to it; empty where a reader tells none.
    The findings keep the reply's order and are not numbered yet.
    """
    recovered = recover_items(text, "findings", _FIELDS)
    problems = list(recovered.problems)
    token_map = TokenMap(text, tokens)
    claims: dict[_Claim, Item] = {}
    for number, item in enumerate(recovered.items, 1):
        claim = _read_claim(item.value, len(context.chunk.slabs), f"entry {number}", problems)
        if claim is not None and claim in claims:
            problems.append(f"entry {number} repeats an earlier one and was dropped")
        elif claim is not None:
            claims[claim] = item
    if len(claims) > MAX_FINDINGS:
        problems.append(f"{len(claims)} findings were given; the first {MAX_FINDINGS} were kept")
    elif len(recovered.items) >= MAX_FINDINGS:
        problems.append(f"the list was full with {MAX_FINDINGS} entries; there may be more to see")
    kept = list(claims.items())[:MAX_FINDINGS]
    findings = tuple(_tie_claim(claim, item, token_map, context) for claim, item in kept)
    return ParsedReply(findings, tuple(problems), recovered.found)


# --- from values of any kind to a claim ----------------------------------------------------------------------------


def _read_claim(value: dict[str, Any], picture_count: int, name: str, problems: list[str]) -> _Claim | None:
    """Read one entry; None if it cannot be placed. What was dropped or put right is added to `problems`."""
    key = _integer(value.get("slice"))
    box = _read_box(value.get("bbox_2d"), name, problems)
    observation = _words(value.get("observation"), OBSERVATION_CHARACTERS)
    if key is None or not 1 <= key <= picture_count:
        problems.append(f"{name} names no slice of its chunk (1 to {picture_count}) and was dropped")
    elif not observation or is_absence(observation):
        problems.append(f"{name} reports no abnormality and was dropped")
    elif box is not None:
        first, last = _read_range(value, key, picture_count, name, problems)
        return _Claim(
            slice=key,
            first_slice=first,
            last_slice=last,
            box=box,
            observation=observation,
            site=_words(value.get("site"), SITE_CHARACTERS),
            side=_choice(value.get("side"), SIDES, "none", f"{name}: side", problems),
            certainty=_choice(value.get("certainty"), CERTAINTIES, "possible", f"{name}: certainty", problems),
            description=_words(value.get("description"), DESCRIPTION_CHARACTERS),
        )
    return None


def _read_box(value: object, name: str, problems: list[str]) -> Box | None:
    corners = [_number(corner) for corner in value] if isinstance(value, list) else []
    numbers = [corner for corner in corners if corner is not None]
    if len(corners) != 4 or len(numbers) != 4:
        problems.append(f"{name} has no box of four numbers and was dropped")
        return None
    x1, y1, x2, y2 = (min(max(number, 0.0), float(BOX_UNITS)) for number in numbers)
    if [x1, y1, x2, y2] != numbers:
        problems.append(f"{name}: its box was cut at the picture's edge")
    box = Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    if box.x2 - box.x1 < 1 or box.y2 - box.y1 < 1:
        problems.append(f"{name} has an empty box and was dropped")
        return None
    return box


def _read_range(value: dict[str, Any], key: int, picture_count: int, name: str, problems: list[str]) -> tuple[int, int]:
    """Return the first and the last slice, both within the chunk, with `key` between them."""
    given = [_integer(value.get("first_slice")), _integer(value.get("last_slice"))]
    inside = [min(max(number, 1), picture_count) for number in given if number is not None]
    first, last = min([key, *inside]), max([key, *inside])
    if [first, last] != given:
        problems.append(f"{name}: its range of slices was put right")
    return first, last


def _choice(value: object, choices: tuple[_Word, ...], otherwise: _Word, name: str, problems: list[str]) -> _Word:
    if value in choices:
        return choices[choices.index(value)]
    problems.append(f"{name} is none of {', '.join(choices)}; taken as {otherwise}")
    return otherwise


def _words(value: object, limit: int) -> str:
    return clean_text(_LOOP.sub(r"\1", value[: 8 * limit]), limit) if isinstance(value, str) else ""


def _integer(value: object) -> int | None:
    number = _number(value)
    return None if number is None or not number.is_integer() else int(number)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# --- from a claim to evidence --------------------------------------------------------------------------------------


def _tie_claim(claim: _Claim, item: Item, token_map: TokenMap, context: ChunkContext) -> Finding:
    slabs, at = context.chunk.slabs, claim.slice - 1
    first, last = slabs[claim.first_slice - 1], slabs[claim.last_slice - 1]
    geometry, stack = context.geometries[at], context.stack
    place = measure_box(claim.box, geometry, stack, first, last)
    side = judge_side(claim.box, geometry, context.silhouettes[at], stack.plane)
    middle = slabs[at].middle
    long_axis_mm, short_axis_mm = place.axes_mm
    return Finding(
        number=0,
        observation=claim.observation,
        site=claim.site,
        side=side or claim.side,
        side_said=claim.side,
        certainty=claim.certainty,
        description=claim.description,
        series_uid=stack.series.uid,
        view=context.view,
        first_slice=first.slices[0].number,
        last_slice=last.slices[-1].number,
        key_slice=middle.number,
        sop_instance_uid=middle.frame.sop_instance_uid,
        frame_index=middle.frame.index,
        box=claim.box,
        box_stored_px=place.box_stored_px,
        center_lps_mm=place.center_lps_mm,
        width_mm=place.width_mm,
        height_mm=place.height_mm,
        depth_mm=place.extent_mm and place.extent_mm[1] - place.extent_mm[0],
        confidence=token_map.probability_of_going_on(item.after, item.start),
        wording_probability=token_map.mean_probability(item.start, item.end),
        chunks=(context.chunk.index,),
        notes=_side_notes(claim.side, side, from_display=geometry.lps_from_px is None),
        extent_mm=place.extent_mm,
        long_axis_mm=long_axis_mm,
        short_axis_mm=short_axis_mm,
        axis_error_mm=place.axis_error_mm,
        typed_mm=typed_size_mm(claim.observation, claim.site, claim.description),
    )


def _side_notes(said: Side, found: Side | None, *, from_display: bool) -> tuple[str, ...]:
    notes = []
    if found is None and said != "none":
        notes.append("the side is the model's word; geometry cannot tell it here")
    if found is not None and said not in ("none", found):
        notes.append(f"the model said {said}; the position is {found}")
    if found is not None and from_display:
        notes.append("side by the display convention: the left of the picture is the patient's right")
    return tuple(notes)
