"""How patiently a server is asked, and how many requests at once. Knows no protocol and no pictures."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_FIRST_SIZE = 4.0  # requests at once before anything is known


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what."""

    connect_s: float = 10.0  # for a connection
    loading_s: float = 300.0  # for a server that says it is still loading its model
    request_s: float = 600.0  # for one answer: ten pictures and a full reply on a CPU
    chunk_s: float = 1800.0  # for a chunk, everything tried again included
    first_pause_s: float = 1.0  # before asking again; doubled each time
    longest_pause_s: float = 30.0
    broken_tries: int = 5  # answers that are none, before a chunk is left

    def pause_s(self, failures: int) -> float:
        """Return how long to pause after so many failures, one or more.

        Between half and all of a doubling time, at random, so that many waiting requests do not come back as one.
        """
        full = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(failures - 1, 30))
        return full * random.uniform(0.5, 1.0)


class Window:
    """How many requests may be under way: one more for each round that went well, half as many when there are too many.

    The rule by which TCP shares a line (additive increase, multiplicative decrease). Lives in one event loop.
    """

    def __init__(self) -> None:
        self._most = 1
        self._size = _FIRST_SIZE
        self._taken = 0
        self._halved_at = -math.inf
        self._changed = asyncio.Condition()

    @property
    def size(self) -> int:
        """Requests that may be under way at once, at least one."""
        return min(int(self._size), self._most)

    def limit(self, most: int) -> None:
        """Never let more than so many be under way, one or more."""
        self._most = most

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place among those under way, and hold it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._taken < self.size)
            self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
            async with self._changed:
                self._changed.notify_all()

    def widen(self) -> None:
        """Note that a request was answered."""
        if self._size < self._most:
            self._size += 1.0 / self._size

    def halve(self, asked_at: float, now: float) -> None:
        """Note that a request asked at some time was one too many.

        Requests of one round are refused together; only what was asked since the last halving tells something new.
        """
        if asked_at >= self._halved_at:
            self._size, self._halved_at = max(1.0, self._size / 2.0), now
