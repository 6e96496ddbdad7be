"""Has the reader read what the ledger does not know yet, batch by batch, with less at once when memory runs out.

Knows chunks, requests and readings; what a reply means is decided later, from the ledger's entries.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from medvl.dicom.frames import FrameError, pixel_digest
from medvl.dicom.grey import GREY_VERSION, iter_pictures
from medvl.errors import ModelError, OutOfMemoryError
from medvl.findings.measure import Silhouette, find_silhouette
from medvl.findings.schema import reply_schema
from medvl.ledger import Entry, Ledger, UnreadFrame, entry_key
from medvl.pipeline.views import PlannedView
from medvl.planning.chunks import halve_chunk, overlap_for
from medvl.prompts import PromptText, ReadFacts
from medvl.reader.protocol import Reader
from medvl.records import Chunk, Frame, Picture, ReaderIdentity, Reading, Request, Slab, Slice

OpenReader = Callable[[], Reader]
FrameKey = tuple[str, str, int]  # file, member of an archive, frame index; UIDs may be missing or repeated

_TOO_LARGE = "it did not fit into memory, even alone; choose a smaller --size or --precision"


@dataclass(frozen=True, slots=True)
class ChunkReading:
    """One chunk with its reading, or the reason why there is none."""

    planned: PlannedView
    chunk: Chunk
    entry: Entry | None
    failure: str = ""

    @property
    def shown(self) -> tuple[Slab, ...]:
        """The slabs the model saw, in order: those of the chunk less the slices that could not be decoded."""
        if self.entry is None:
            return ()
        gone = {(slab, part) for slab, part, _ in self.entry.unread}
        slabs = [
            replace(slab, slices=tuple(each for j, each in enumerate(slab.slices) if (i, j) not in gone))
            for i, slab in enumerate(self.chunk.slabs)
        ]
        return tuple(slab for slab in slabs if slab.slices)

    @property
    def unread(self) -> tuple[tuple[Slice, str], ...]:
        """Slices of the chunk that could not be decoded, and why."""
        if self.entry is None:
            return ()
        return tuple((self.chunk.slabs[i].slices[j], reason) for i, j, reason in self.entry.unread)


@dataclass(frozen=True, slots=True)
class _Question:
    """A chunk and everything that decides its reply."""

    planned: PlannedView
    chunk: Chunk
    batch: int
    key: str
    facts: dict[str, Any]


class StudyReader:
    """Reads the chunks of one study through its ledger; opens the model only when something is missing."""

    def __init__(
        self,
        views: Sequence[PlannedView],
        ledger: Ledger,
        identity: ReaderIdentity,
        open_reader: OpenReader,
        *,
        batch: int,
        max_new_tokens: int,
    ) -> None:
        """Look up which chunks of the views the ledger knows."""
        self._ledger = ledger
        self._open_reader = open_reader
        self._max_new_tokens = max_new_tokens
        self._facts = {
            "fingerprint": identity.fingerprint,
            "precision": identity.precision,
            "generation": identity.generation,
            "max_new_tokens": max_new_tokens,
        }
        self._resumes = len(ledger) > 0
        self._digests = _digests(slab for planned in views for slab in planned.view.slabs)
        asked = [pair for question in self._questions(views, batch) for pair in self._look_up(question)]
        self._known = [ChunkReading(question.planned, question.chunk, entry) for question, entry in asked if entry]
        self._missing = [question for question, entry in asked if not entry]

    @property
    def known_count(self) -> int:
        """Chunks that earlier runs finished."""
        return len(self._known)

    def read(self) -> Iterator[ChunkReading]:
        """Yield each chunk as soon as its reading is in the ledger, known ones first.

        A chunk that does not fit into memory comes as two halves. Raises ModelError, OutputError.
        """
        yield from self._known
        # Groups are cut from the whole plan, not from what is missing: a resumed run pads as the first one did.
        queue = deque(_grouped(self._missing))
        too_many = math.inf  # pictures in the smallest call that did not fit; as many are not tried again
        while queue:
            group = queue.popleft()
            if _picture_count(group) < too_many:
                try:
                    yield from self._read_group(group)
                    continue
                except OutOfMemoryError:
                    too_many = _picture_count(group)
            if parts := self._smaller(group):
                queue.extendleft(reversed(parts))
            else:
                yield ChunkReading(group[0].planned, group[0].chunk, None, _TOO_LARGE)

    def ask(self, text: PromptText, schema: str, task: str) -> Entry:
        """Ask one question without pictures; the ledger answers if it can. Raises ModelError."""
        facts = {"task": task, "text": text._asdict(), "schema": schema, "reader": self._facts}
        key = entry_key(facts)
        entry = self._ledger.find(key)
        if entry is None:
            reader = self._opened()
            request = Request((text.instruction + "\n\n" + text.query,), schema, self._max_new_tokens)
            entry = Entry(reader.read([request])[0], reader.identity)
            self._ledger.save(key, entry, facts)
        return entry

    def _questions(self, views: Sequence[PlannedView], batch: int) -> Iterator[_Question]:
        chunks = [(planned, chunk) for planned in views for chunk in planned.view.chunks]
        for index, (planned, chunk) in enumerate(chunks):
            yield self._question(planned, chunk, index // batch)

    def _look_up(self, question: _Question) -> list[tuple[_Question, Entry | None]]:
        """Find a chunk in the ledger; one that did not fit into memory earlier is there as its halves."""
        if entry := self._ledger.find(question.key):
            return [(question, entry)]
        halves = self._halves(question) if self._resumes else []
        parts = [pair for half in halves for pair in self._look_up(half)]
        return parts if any(entry for _, entry in parts) else [(question, None)]

    def _opened(self) -> Reader:
        try:
            return self._open_reader()
        except OutOfMemoryError as error:  # of the weights: reading less at once would not help
            raise ModelError(error.found, expected=error.expected, todo=error.todo) from error

    def _question(self, planned: PlannedView, chunk: Chunk, batch: int) -> _Question:
        view, text = planned.view, prompt_text(planned, chunk.slabs)
        facts = {
            "task": "read",
            "grey": GREY_VERSION,
            "pixels": [[self._digests[frame_key(part.frame)] for part in slab.slices] for slab in chunk.slabs],
            "rendering": asdict(view.rendering),
            "turn": asdict(view.stack.turn),
            "text": text._asdict(),
            "schema": reply_schema(len(chunk.slabs)),
            "reader": self._facts,
        }
        return _Question(planned, chunk, batch, entry_key(facts), facts)

    def _read_group(self, group: Sequence[_Question]) -> Iterator[ChunkReading]:
        asked = [(question, shown) for question in group if (shown := _show(question)).pictures]
        reader = self._opened() if asked else None
        readings = reader.read([self._request(q.planned, shown) for q, shown in asked]) if reader else []
        for (question, shown), reading in zip(asked, readings, strict=True):
            assert reader is not None
            yield self._keep(question, shown, reading, reader.identity)
        for question in group:
            if all(question is not each for each, _ in asked):
                yield ChunkReading(question.planned, question.chunk, None, "none of its slices could be decoded")

    def _keep(self, question: _Question, shown: _Shown, reading: Reading, identity: ReaderIdentity) -> ChunkReading:
        entry = Entry(reading, identity, shown.silhouettes, shown.unread)
        self._ledger.save(question.key, entry, question.facts)
        return ChunkReading(question.planned, question.chunk, entry)

    def _request(self, planned: PlannedView, shown: _Shown) -> Request:
        text = prompt_text(planned, shown.slabs)
        parts: list[Any] = [text.instruction]
        for picture, label in zip(shown.pictures, text.labels, strict=True):
            parts += [picture.grey, label]
        return Request((*parts, text.query), reply_schema(len(shown.pictures)), self._max_new_tokens)

    def _smaller(self, group: Sequence[_Question]) -> list[list[_Question]]:
        """Cut a group that did not fit: fewer chunks at once, then shorter chunks. Empty: it cannot get smaller."""
        if len(group) > 1:
            middle = len(group) // 2
            return [list(group[:middle]), list(group[middle:])]
        return [[half] for half in self._halves(group[0])]

    def _halves(self, whole: _Question) -> list[_Question]:
        halves = halve_chunk(whole.chunk, overlap_for(len(whole.chunk.slabs)))
        return [self._question(whole.planned, half, whole.batch) for half in halves] if len(halves) > 1 else []


@dataclass(frozen=True, slots=True)
class _Shown:
    """What of a chunk could be turned into pictures."""

    slabs: tuple[Slab, ...]
    pictures: tuple[Picture, ...]
    silhouettes: tuple[Silhouette | None, ...]
    unread: tuple[UnreadFrame, ...]


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


def _between_pictures_mm(slabs: Sequence[Slab]) -> float | None:
    if len(slabs) < 2:
        return None
    steps = sorted(abs(slab_position_mm(b) - slab_position_mm(a)) for a, b in pairwise(slabs))
    return round(steps[len(steps) // 2], 2) or None


def slab_position_mm(slab: Slab) -> float:
    """Return the mean position of a slab's slices along the stack's normal."""
    return sum(each.distance_mm for each in slab.slices) / len(slab.slices)


def _show(question: _Question) -> _Shown:
    view, unread = question.planned.view, list[UnreadFrame]()
    slabs, pictures = [], []
    rendered = iter_pictures(question.chunk.slabs, view.rendering, view.stack.turn)
    for i, (slab, picture) in enumerate(zip(question.chunk.slabs, rendered, strict=True)):
        kept: Slab | None = slab
        while kept is not None and isinstance(picture, FrameError):
            unread.append((i, _place_of(picture.frame, slab), picture.reason))
            kept = _without(kept, picture.frame)
            picture = next(iter_pictures([kept], view.rendering, view.stack.turn)) if kept else picture
        if kept is not None and not isinstance(picture, FrameError):
            slabs.append(kept)
            pictures.append(picture)
    silhouettes = tuple(find_silhouette(picture.grey) for picture in pictures)
    return _Shown(tuple(slabs), tuple(pictures), silhouettes, tuple(unread))


def _place_of(frame: Frame, slab: Slab) -> int:
    return next(j for j, each in enumerate(slab.slices) if each.frame is frame)


def _without(slab: Slab, frame: Frame) -> Slab | None:
    rest = tuple(each for each in slab.slices if each.frame is not frame)
    return replace(slab, slices=rest) if rest else None


def _digests(slabs: Iterable[Slab]) -> dict[FrameKey, str]:
    frames = {frame_key(each.frame): each.frame for slab in slabs for each in slab.slices}
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(frames, pool.map(_digest, frames.values()), strict=True))


def frame_key(frame: Frame) -> FrameKey:
    """Return what tells a frame from every other of the study."""
    return str(frame.source.path), frame.source.member or "", frame.index


def _digest(frame: Frame) -> str:
    try:
        return pixel_digest(frame)
    except FrameError as error:  # its reason is told when it cannot be rendered
        return f"unreadable: {error.reason}"


def _picture_count(group: Sequence[_Question]) -> int:
    return sum(len(question.chunk.slabs) for question in group)


def _grouped(questions: Sequence[_Question]) -> list[list[_Question]]:
    groups: dict[int, list[_Question]] = {}
    for question in questions:
        groups.setdefault(question.batch, []).append(question)
    return list(groups.values())
