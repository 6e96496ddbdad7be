"""Has the reader read what the ledger does not know yet, with less at once when memory runs out.

Pictures are rendered a little ahead of the reader. Knows chunks, requests and readings; what a reply means is decided
later, from the ledger's entries.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from typing import Any, NamedTuple

from medvl.dicom.frames import FrameError, pixel_digest
from medvl.dicom.grey import GREY_VERSION
from medvl.errors import ModelError, OutOfMemoryError, TooLargeError
from medvl.findings.schema import reply_schema
from medvl.ledger import Entry, Ledger, entry_key
from medvl.pipeline.ahead import work_ahead
from medvl.pipeline.showing import Shown, prompt_text, show_chunk
from medvl.pipeline.views import PlannedView
from medvl.planning.chunks import halve_chunk, overlap_for
from medvl.prompts import PromptText
from medvl.reader.protocol import Reader
from medvl.records import Chunk, Frame, ReaderIdentity, Request, Slab, Slice, Unanswered
from medvl.text import counted

OpenReader = Callable[[], Reader]
FrameKey = tuple[str, str, int]  # file, member of an archive, frame index; UIDs may be missing or repeated

_CHUNKS_AHEAD = 2  # rendered chunks that wait for the reader
_UNDECODABLE = "none of its slices could be decoded"
_TOO_LARGE_LOOK = "it did not fit into memory"
_REFUSED_ALONE = "the reader does not take it, even alone"
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
class ShortQuestion:
    """A short question about some slabs, asked beside the chunks."""

    slabs: tuple[Slab, ...]
    facts: Mapping[str, Any]  # all that decides the answer, but for pixels and reader
    show: Callable[[], Request]  # raises FrameError


@dataclass(frozen=True, slots=True)
class _Question:
    """A chunk and everything that decides its reply."""

    planned: PlannedView
    chunk: Chunk
    batch: int
    key: str
    facts: dict[str, Any]

    @property
    def same(self) -> tuple[int, str]:
        """Equal for chunks that show the same slices of one view: halves of neighbours meet where they overlap."""
        return id(self.planned), self.key


class _Rendered(NamedTuple):
    """A question and what of its chunk can be shown."""

    question: _Question
    shown: Shown


class _Backlog:
    """The questions still open, in the plan's order, and how many of them may be asked at once."""

    def __init__(self, questions: Sequence[_Question], rows: int) -> None:
        self.questions = list(questions)
        self.rows = rows
        self._failures: list[ChunkReading] = []

    def company(self, first: _Question, *, independent: bool) -> list[_Question]:
        """Return the questions of one call, `first` among them.

        Where a reply depends on its neighbours, the whole plan decides who they are, not what happens to be missing: a
        resumed run pads as the first one did.
        """
        return [each for each in self.questions if independent or each.batch == first.batch]

    def close(self, question: _Question, entry: Entry | None, failure: str = "") -> ChunkReading:
        """Take a question off, with its entry or the reason why there is none."""
        self.questions = [each for each in self.questions if each is not question]
        return ChunkReading(question.planned, question.chunk, entry, failure)

    def give_up(self, question: _Question, failure: str) -> None:
        """Take a question off that will not be asked; `failures` tells of it."""
        self._failures.append(self.close(question, None, failure))

    def failures(self) -> list[ChunkReading]:
        """Return what was given up since the last call."""
        told, self._failures = self._failures, []
        return told

    def shrink(self, rows: int, halve: Callable[[_Question], list[_Question]]) -> None:
        """Ask for less, since `rows` questions at once did not fit: half the rows, and from one row on half the chunk.

        Alone, the first open question was the one that did not fit.
        """
        self.rows = max(1, rows // 2)
        if rows == 1:
            self.shorten(len(self.questions[0].chunk.slabs), halve, _TOO_LARGE)

    def shorten(self, too_long: int, halve: Callable[[_Question], list[_Question]], failure: str) -> None:
        """Halve chunks until each is shorter than `too_long`; what cannot get as short is given up."""
        parts = (part for each in self.questions for part in _shortened(each, too_long, halve))
        self.questions = list({part.same: part for part in parts}.values())
        for question in self.questions:
            if len(question.chunk.slabs) >= too_long:
                self.give_up(question, failure)


def _shortened(
    question: _Question, too_long: int, halve: Callable[[_Question], list[_Question]]
) -> Iterator[_Question]:
    """Halve a question until its chunk is shorter than `too_long`, or as short as it can be."""
    halves = halve(question) if len(question.chunk.slabs) >= too_long else []
    for half in halves:
        yield from _shortened(half, too_long, halve)
    if not halves:
        yield question


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
        self._batch = batch
        self._max_new_tokens = max_new_tokens
        self._facts = {
            "fingerprint": identity.fingerprint,
            "precision": identity.precision,
            "generation": identity.generation,
            "max_new_tokens": max_new_tokens,
        }
        self._resumes = len(ledger) > 0
        self._digests = _digests(slab for planned in views for slab in planned.view.slabs)
        looked_up = (pair for question in self._questions(views) for pair in self._look_up(question))
        asked = {question.same: (question, entry) for question, entry in looked_up}.values()
        self._known = [ChunkReading(question.planned, question.chunk, entry) for question, entry in asked if entry]
        self._missing = [question for question, entry in asked if not entry]

    @property
    def known_count(self) -> int:
        """Chunks that earlier runs finished."""
        return len(self._known)

    @property
    def digests(self) -> Mapping[FrameKey, str]:
        """What identifies the pixels of each frame."""
        return self._digests

    def read(self) -> Generator[ChunkReading, None, None]:
        """Yield each chunk as soon as its reading is in the ledger, known ones first, the others as they arrive.

        A chunk that does not fit into memory comes as two halves. Close the generator when leaving it early, or its
        thread goes on rendering. Raises ModelError, OutputError, WindowError.
        """
        yield from self._known
        backlog = _Backlog(self._missing, self._batch)
        while backlog.questions:
            yield from self._work_off(backlog)
            yield from backlog.failures()

    def ask(self, text: PromptText, schema: str, task: str) -> Entry:
        """Ask one question without pictures; the ledger answers if it can. Raises ModelError if nothing does."""
        facts = {"task": task, "text": text._asdict(), "schema": schema, "reader": self._facts}
        key = entry_key(facts)
        entry = self._ledger.find(key)
        if entry is None:
            reader = self._opened()
            request = Request((text.instruction + "\n\n" + text.query,), schema, self._max_new_tokens)
            [(_, reading)] = reader.read([request], rows=1)
            if isinstance(reading, Unanswered):
                raise ModelError(reading.reason)
            entry = Entry(reading, reader.identity)
            self._ledger.save(key, entry, facts)
        return entry

    def answer(self, questions: Sequence[ShortQuestion]) -> list[Entry | str]:
        """Answer short questions, in their order: each with its entry, or why there is none.

        The ledger answers what it knows. A reader whose replies depend on their neighbours is asked one by one, so
        that no answer depends on which of them an earlier run has left open. Raises OutputError.
        """
        asked = [self._short_facts(question) for question in questions]
        answers: list[Entry | str | None] = [self._ledger.find(entry_key(facts)) for facts in asked]
        rows = self._batch
        while None in answers:
            try:
                reader = self._opened()
                rows = rows if reader.independent else 1
                for i, entry in self._ask_open(reader, questions, answers, rows):
                    answers[i] = entry
                    self._ledger.save(entry_key(asked[i]), entry, asked[i])
                if None in answers:
                    raise ValueError(f"the reader left {counted(answers.count(None), 'question')} without an answer")
            except OutOfMemoryError:
                if rows == 1:  # then it was the first of those still open
                    answers[answers.index(None)] = _TOO_LARGE_LOOK
                rows = max(1, rows // 2)
            except ModelError as error:
                answers = [str(error) if answer is None else answer for answer in answers]
        return [answer for answer in answers if answer is not None]

    def _short_facts(self, question: ShortQuestion) -> dict[str, Any]:
        pixels = [[self._digests[frame_key(part.frame)] for part in slab.slices] for slab in question.slabs]
        return {**question.facts, "pixels": pixels, "reader": self._facts}

    def _ask_open(
        self, reader: Reader, questions: Sequence[ShortQuestion], answers: list[Entry | str | None], rows: int
    ) -> Iterator[tuple[int, Entry]]:
        """Yield the answers to those still open; why one cannot be asked is written into `answers`."""
        asked: list[int] = []

        def requests(rendered: Iterable[tuple[int, Request | FrameError]]) -> Iterator[Request]:
            for i, request in rendered:
                if isinstance(request, FrameError):
                    answers[i] = request.reason
                else:
                    asked.append(i)
                    yield request

        open_ones = [i for i, answer in enumerate(answers) if answer is None]
        with closing(work_ahead(lambda i: (i, _shown_or_error(questions[i])), open_ones, _CHUNKS_AHEAD)) as rendered:
            for number, reading in reader.read(requests(rendered), rows):
                if isinstance(reading, Unanswered):
                    answers[asked[number]] = reading.reason
                else:
                    yield asked[number], Entry(reading, reader.identity)

    def _questions(self, views: Sequence[PlannedView]) -> Iterator[_Question]:
        chunks = [(planned, chunk) for planned in views for chunk in planned.view.chunks]
        for index, (planned, chunk) in enumerate(chunks):
            yield self._question(planned, chunk, index // self._batch)

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

    def _work_off(self, backlog: _Backlog) -> Iterator[ChunkReading]:
        """Read the backlog; once something is too much, cut what is left of it into less and stop."""
        with closing(work_ahead(self._show, tuple(backlog.questions), _CHUNKS_AHEAD)) as rendered:
            for first in rendered:
                if first.shown.request is None:
                    backlog.give_up(first.question, _UNDECODABLE)
                    continue
                reader = self._opened()
                company = backlog.company(first.question, independent=reader.independent)
                # An independent reader is always asked alike: with fewer slots its sums run in another order.
                rows = backlog.rows if reader.independent else min(backlog.rows, len(company))
                call = chain(iter([first]), islice(rendered, len(company) - 1))  # a used-up iterator lets go
                del first  # or its pictures would stay as long as the call
                try:
                    yield from self._read_call(reader, call, rows, backlog)
                except OutOfMemoryError:
                    backlog.shrink(rows, self._halves)
                    return
                except TooLargeError as error:
                    backlog.shorten(error.too_many, self._halves, f"{_REFUSED_ALONE}: {error.found}")
                    return
        if backlog.questions:
            raise ValueError(f"the reader left {counted(len(backlog.questions), 'request')} without an answer")

    def _read_call(
        self, reader: Reader, call: Iterator[_Rendered], rows: int, backlog: _Backlog
    ) -> Iterator[ChunkReading]:
        asked: list[_Rendered] = []

        def requests() -> Iterator[Request]:
            for question, shown in call:
                if shown.request is None:
                    backlog.give_up(question, _UNDECODABLE)
                else:
                    asked.append(_Rendered(question, replace(shown, request=None)))
                    yield shown.request

        for number, reading in reader.read(requests(), rows):
            question, shown = asked[number]
            if isinstance(reading, Unanswered):
                yield backlog.close(question, None, reading.reason)
            else:
                entry = Entry(reading, reader.identity, shown.silhouettes, shown.unread)
                self._ledger.save(question.key, entry, question.facts)
                yield backlog.close(question, entry)
            yield from backlog.failures()

    def _show(self, question: _Question) -> _Rendered:
        return _Rendered(question, show_chunk(question.planned, question.chunk, self._max_new_tokens))

    def _halves(self, whole: _Question) -> list[_Question]:
        halves = halve_chunk(whole.chunk, overlap_for(len(whole.chunk.slabs)))
        return [self._question(whole.planned, half, whole.batch) for half in halves] if len(halves) > 1 else []


def _shown_or_error(question: ShortQuestion) -> Request | FrameError:
    try:
        return question.show()
    except FrameError as error:
        return error


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
