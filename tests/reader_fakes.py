"""Readers written by hand: they follow a script, keep a record, and fail where a test wants them to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from medvl.errors import OutOfMemoryError
from medvl.records import ReaderIdentity, Reading, Request, Token

IDENTITY = ReaderIdentity(
    model="scripted", fingerprint="0" * 64, precision="fp32", device="CPU", generation="greedy", warning="scripted"
)


class ScriptedReader:
    """Satisfies `Reader`; reads batch by batch, as a reader must whose replies depend on their neighbours.

    script: replies in the order they are asked for, or a function from a request to its reply.
    picture_limit: more pictures than this do not fit in memory at once.
    out_of_memory_at: the calls (counted from 1) that do not fit whatever they hold.
    interrupt_at: the call that the user interrupts.
    """

    independent = False

    def __init__(
        self,
        script: Iterable[str] | Callable[[Request], str] = lambda _: '{"findings": []}',
        *,
        picture_limit: int | None = None,
        out_of_memory_at: Collection[int] = (),
        interrupt_at: int | None = None,
        probability: float = 0.9,
        identity: ReaderIdentity = IDENTITY,
    ) -> None:
        self._reply = script if callable(script) else _in_order(script)
        self._picture_limit = picture_limit
        self._out_of_memory_at = out_of_memory_at
        self._interrupt_at = interrupt_at
        self._probability = probability
        self.identity = identity
        self.calls: list[tuple[Request, ...]] = []
        self.rows: list[int] = []  # asked for, read by read
        self.closed = False

    @property
    def requests(self) -> list[Request]:
        """Every request asked so far, failed calls included."""
        return [request for call in self.calls for request in call]

    def read(self, requests: Iterable[Request], rows: int) -> Iterator[tuple[int, Reading]]:
        self.rows.append(rows)
        waiting, number = iter(requests), 0
        while readings := self._read_batch(tuple(islice(waiting, rows))):
            yield from enumerate(readings, number)
            number += len(readings)

    def close(self) -> None:
        self.closed = True

    def _read_batch(self, requests: Sequence[Request]) -> list[Reading]:
        if requests:
            self._call(requests, requests)
        return [self._reading(request) for request in requests]

    def _call(self, new: Iterable[Request], together: Iterable[Request]) -> None:
        """Note what is asked, and fail if this call is to, or if what is now in memory together is too much."""
        self.calls.append(tuple(new))
        if len(self.calls) == self._interrupt_at:
            raise KeyboardInterrupt
        pictures = sum(map(count_pictures, together))
        too_many = self._picture_limit is not None and pictures > self._picture_limit
        if too_many or len(self.calls) in self._out_of_memory_at:
            raise OutOfMemoryError(f"{pictures} pictures do not fit in memory at once")

    def _reading(self, request: Request) -> Reading:
        whole = self._reply(request)
        text = whole[: request.max_new_tokens]  # one character, one token
        tokens = tuple(Token(character, self._probability) for character in text)
        return Reading(text, tokens, complete=text == whole, prompt_token_count=100, seconds=0.01)


class StreamingReader(ScriptedReader):
    """Satisfies `Reader`; lets requests join as others end, one in each call.

    ends: from how many are in progress to the place of the one that ends next, the one longest there by default.
    """

    independent = True

    def __init__(self, *script: Any, ends: Callable[[int], int] = lambda count: 0, **how: Any) -> None:
        super().__init__(*script, **how)
        self._ends = ends

    def read(self, requests: Iterable[Request], rows: int) -> Iterator[tuple[int, Reading]]:
        self.rows.append(rows)
        waiting, progressing = enumerate(requests), list[tuple[int, Request]]()
        while True:
            while len(progressing) < rows and (drawn := next(waiting, None)):
                progressing.append(drawn)
                self._call([drawn[1]], (request for _, request in progressing))
            if not progressing:
                return
            drawn = None  # neither name may keep pictures while the next request is drawn
            number, request = progressing.pop(self._ends(len(progressing)))
            reading = self._reading(request)
            del request
            yield number, reading


def count_pictures(request: Request) -> int:
    return sum(not isinstance(part, str) for part in request.parts)


def _in_order(replies: Iterable[str]) -> Callable[[Request], str]:
    remaining = iter(replies)

    def reply(_: Request) -> str:
        return next(remaining)

    return reply
