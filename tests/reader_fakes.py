"""A reader written by hand: it follows a script, keeps a record, and fails where a test wants it to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from medvl.errors import OutOfMemoryError
from medvl.records import ReaderIdentity, Reading, Request, Token

IDENTITY = ReaderIdentity(
    model="scripted", fingerprint="0" * 64, precision="fp32", device="CPU", generation="greedy", warning="scripted"
)


class ScriptedReader:
    """Satisfies `Reader`.

    script: replies in the order they are asked for, or a function from a request to its reply.
    picture_limit: more pictures than this in one call do not fit in memory.
    interrupt_at: the call (counted from 1) that the user interrupts.
    """

    def __init__(
        self,
        script: Iterable[str] | Callable[[Request], str] = lambda _: '{"findings": []}',
        *,
        picture_limit: int | None = None,
        interrupt_at: int | None = None,
        probability: float = 0.9,
        identity: ReaderIdentity = IDENTITY,
    ) -> None:
        self._reply = script if callable(script) else _in_order(script)
        self._picture_limit = picture_limit
        self._interrupt_at = interrupt_at
        self._probability = probability
        self.identity = identity
        self.calls: list[tuple[Request, ...]] = []
        self.closed = False

    @property
    def requests(self) -> list[Request]:
        """Every request asked so far, failed calls included."""
        return [request for call in self.calls for request in call]

    def read(self, requests: Sequence[Request]) -> list[Reading]:
        self.calls.append(tuple(requests))
        if len(self.calls) == self._interrupt_at:
            raise KeyboardInterrupt
        pictures = sum(count_pictures(request) for request in requests)
        if self._picture_limit is not None and pictures > self._picture_limit:
            raise OutOfMemoryError(f"{pictures} pictures do not fit in memory at once")
        return [self._reading(request) for request in requests]

    def close(self) -> None:
        self.closed = True

    def _reading(self, request: Request) -> Reading:
        whole = self._reply(request)
        text = whole[: request.max_new_tokens]  # one character, one token
        tokens = tuple(Token(character, self._probability) for character in text)
        return Reading(text, tokens, complete=text == whole, prompt_token_count=100, seconds=0.01)


def count_pictures(request: Request) -> int:
    return sum(not isinstance(part, str) for part in request.parts)


def _in_order(replies: Iterable[str]) -> Callable[[Request], str]:
    remaining = iter(replies)

    def reply(_: Request) -> str:
        return next(remaining)

    return reply
