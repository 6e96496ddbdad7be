"""Asks again while that may help: pauses, a deadline, and a window that all requests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from medvl.reader.remote.faults import Fault
from medvl.reader.remote.pace import Patience, Window
from medvl.records import Reading

Ask = Callable[[], Awaitable[Reading]]

_LATE = "the server did not answer in time"


class Asking:
    """One request's tries."""

    def __init__(self, patience: Patience, window: Window) -> None:
        self._patience, self._window = patience, window
        self.last = _LATE  # why there is no answer yet

    async def insist(self, ask: Ask) -> Reading:
        """Ask until there is an answer.

        Raises TimeoutError when the chunk's time is up or the server wants to be left alone for longer than that, the
        Fault that no other try would cure, and the last of too many answers that were none.
        """
        async with asyncio.timeout(self._patience.chunk_s):
            failures = broken = 0
            while True:
                try:
                    return await self._try(ask)
                except Fault as fault:
                    self.last, failures, broken = fault.reason, failures + 1, broken + (fault.kind == "broken")
                    if not fault.may_pass or broken >= self._patience.broken_tries:
                        raise
                    pause_s = max(fault.wait_s, self._patience.pause_s(failures))
                if pause_s > self._patience.chunk_s:
                    raise TimeoutError
                await asyncio.sleep(pause_s)

    async def _try(self, ask: Ask) -> Reading:
        async with self._window.place():
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._patience.request_s):
                    reading = await ask()
            except TimeoutError:  # the client's own limit is one of silence, which bytes that trickle in never reach
                self._window.halve(began, time.monotonic())
                raise Fault("busy", _LATE) from None
            except Fault as fault:
                if fault.kind == "busy":
                    self._window.halve(began, time.monotonic())
                raise
            self._window.widen()
            return reading
