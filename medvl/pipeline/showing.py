"""Turns a chunk into the request that shows it: pictures, labels and prompt. Knows no reader and no reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from medvl.dicom.frames import FrameError
from medvl.dicom.grey import iter_pictures
from medvl.findings.measure import Silhouette, find_silhouette
from medvl.findings.schema import reply_schema
from medvl.ledger import UnreadFrame
from medvl.pipeline.views import PlannedView
from medvl.prompts import PromptText, ReadFacts
from medvl.records import Chunk, Frame, Picture, Request, Slab


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a chunk can be shown, and what has to be remembered of it once its pictures are gone."""

    request: Request | None  # None: not one of its slices could be decoded
    silhouettes: tuple[Silhouette | None, ...]
    unread: tuple[UnreadFrame, ...]


def show_chunk(planned: PlannedView, chunk: Chunk, max_new_tokens: int) -> Shown:
    """Render a chunk and ask about it, leaving out slices that cannot be decoded.

    Raises WindowError if no picture can be made with the view's window.
    """
    slabs, pictures, unread = _render(planned, chunk)
    silhouettes = tuple(find_silhouette(picture.grey) for picture in pictures)
    request = _request(planned, slabs, pictures, max_new_tokens) if pictures else None
    return Shown(request, silhouettes, tuple(unread))


def prompt_text(planned: PlannedView, shown: Sequence[Slab]) -> PromptText:
    """Fill the view's prompt with the facts of the slabs the model is shown."""
    stack, view = planned.view.stack, planned.view
    facts = ReadFacts(
        modality=stack.series.modality,
        body_part=stack.series.body_part,
        plane="" if stack.plane == "unknown" else stack.plane,
        window=", ".join(window.label for window in view.rendering.windows),
        slice_count=len(shown),
        slice_spacing_mm=_between_pictures_mm(shown),
        slab_mm=planned.slab_mm,
        contrast=stack.series.contrast,
    )
    positions = [slab_position_mm(slab) if stack.slice_spacing_mm else None for slab in shown]
    return planned.prompt.render(facts, positions)


def slab_position_mm(slab: Slab) -> float:
    """Return the mean position of a slab's slices along the stack's normal."""
    return sum(each.distance_mm for each in slab.slices) / len(slab.slices)


def _between_pictures_mm(slabs: Sequence[Slab]) -> float | None:
    if len(slabs) < 2:
        return None
    steps = sorted(abs(slab_position_mm(b) - slab_position_mm(a)) for a, b in pairwise(slabs))
    return round(steps[len(steps) // 2], 2) or None


def _request(planned: PlannedView, slabs: Sequence[Slab], pictures: Sequence[Picture], max_new_tokens: int) -> Request:
    text = prompt_text(planned, slabs)
    labelled = zip(pictures, text.labels, strict=True)
    shown = (part for picture, label in labelled for part in (picture.grey, label))
    return Request((text.instruction, *shown, text.query), reply_schema(len(pictures)), max_new_tokens)


def _render(planned: PlannedView, chunk: Chunk) -> tuple[list[Slab], list[Picture], list[UnreadFrame]]:
    """Return what could be rendered of each slab, and the frames that could not.

    A slab loses the slices that cannot be decoded and is rendered again without them.
    """
    view, unread = planned.view, list[UnreadFrame]()
    slabs, pictures = [], []
    rendered = iter_pictures(chunk.slabs, view.rendering, view.stack.turn)
    for i, (slab, picture) in enumerate(zip(chunk.slabs, rendered, strict=True)):
        kept: Slab | None = slab
        while kept is not None and isinstance(picture, FrameError):
            unread.append((i, _place_of(picture.frame, slab), picture.reason))
            kept = _without(kept, picture.frame)
            picture = next(iter_pictures([kept], view.rendering, view.stack.turn)) if kept else picture
        if kept is not None and not isinstance(picture, FrameError):
            slabs.append(kept)
            pictures.append(picture)
    return slabs, pictures, unread


def _place_of(frame: Frame, slab: Slab) -> int:
    return next(j for j, each in enumerate(slab.slices) if each.frame is frame)


def _without(slab: Slab, frame: Frame) -> Slab | None:
    rest = tuple(each for each in slab.slices if each.frame is not frame)
    return replace(slab, slices=rest) if rest else None
