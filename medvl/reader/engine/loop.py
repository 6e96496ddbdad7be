"""Writes the replies to a stream of requests: a free slot takes the next request, an ended reply leaves at once.

A reply does not depend on what is written beside it: prompts are read one by one, and what a step does for one slot is
the same whatever the others hold. So a run that was interrupted ends with the same replies.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from medvl.planning.memory import PLACES_STEP
from medvl.reader.decoding import Limits
from medvl.reader.engine.decoder import Decoder
from medvl.reader.engine.prompts import PromptWriter
from medvl.reader.engine.rows import Rows
from medvl.reader.engine.text import TextModel
from medvl.reader.engine.vision import VisionEncoder
from medvl.reader.grammar import Grammars
from medvl.reader.identity import Sampling
from medvl.reader.replies import Draft
from medvl.records import Reading, Request


@dataclass(slots=True)
class _Asked:
    """A request that has a slot."""

    slot: int
    number: int
    ids: list[int]
    cap: int  # tokens of the reply, at most
    draft: Draft
    chance: np.random.Generator
    seconds: float = 0.0

    @property
    def places(self) -> int:
        """Tokens it may come to."""
        return len(self.ids) + self.cap

    def reading(self) -> Reading:
        """What has been written."""
        reply = self.draft.finish()
        return Reading(reply.text, reply.tokens, reply.complete, len(self.ids), self.seconds)


_Waiting = deque[tuple[_Asked, Request]]  # a request's pictures go as soon as its prompt is read


class Engine:
    """Writes replies with one loaded model."""

    independent = True

    def __init__(
        self, text: TextModel, encoder: VisionEncoder, prompts: PromptWriter, grammars: Grammars, sampling: Sampling
    ) -> None:
        self._text, self._encoder, self._prompts, self._grammars = text, encoder, prompts, grammars
        self._sampling = sampling
        self._decoder: Decoder | None = None
        self._busy = False

    @torch.inference_mode()
    def write(self, requests: Iterable[Request], rows: int) -> Iterator[tuple[int, Reading]]:
        """Yield the number of each request with its reading as soon as it is whole; at most `rows` at once.

        Raises ValueError while the replies of an earlier call are still being drawn.
        """
        if self._busy:
            raise ValueError("this engine is still writing; its slots serve one call at a time")
        self._busy = True
        waiting, writing = _Waiting(), dict[int, _Asked]()  # by slot
        schedule = Rows(requests, rows)
        clock = time.perf_counter()
        try:
            while True:
                for slot, number, request in schedule.admit():  # the next one is made while the GPU reads this one
                    waiting.append((self._ask(slot, number, request), request))
                    self._begin(waiting, writing, rows)
                if schedule.done:
                    return
                self._begin(waiting, writing, rows)
                self._take_step(writing)
                clock = _share_time(writing, since=clock)
                for asked in [asked for asked in writing.values() if asked.draft.ended]:
                    self._release(writing, asked.slot)
                    schedule.release(asked.slot)
                    yield asked.number, asked.reading()
                    clock = time.perf_counter()  # what happens out there is not the reply's time
        finally:  # whoever draws the replies may stop, and so may whoever makes the requests
            self._busy = False
            for slot in list(writing):
                self._release(writing, slot)

    def limit(self, limits: Limits) -> None:
        """Keep within other bounds from now on."""
        self._encoder.limit(
            pixels_at_once=limits.pixels_at_once,
            device_bytes=limits.kept_on_device_bytes,
            host_bytes=limits.kept_on_host_bytes,
        )

    def forget(self) -> None:
        """Give back the memory of slots and encoded pictures."""
        self._decoder = None
        self._encoder.forget()

    @property
    def _decoder_now(self) -> Decoder:
        assert self._decoder is not None, "slots are made when the first request comes"
        return self._decoder

    def _ask(self, slot: int, number: int, request: Request) -> _Asked:
        ids = self._prompts.ids(request)
        digest = hashlib.blake2b(np.array(ids).tobytes(), digest_size=8).digest()
        chance = np.random.default_rng([self._sampling.seed, int.from_bytes(digest, "little")])
        return _Asked(slot, number, ids, request.max_new_tokens, Draft(self._grammars, request), chance)

    def _make_room(self, asked: _Asked, rows: int) -> None:
        """Make slots that are long enough for a request, unless there are."""
        decoder, places = self._decoder, -(-asked.places // PLACES_STEP) * PLACES_STEP
        if decoder is None or decoder.slots.count != rows or decoder.slots.places < places:
            self._decoder = None  # before the new buffers are taken
            self._decoder = Decoder(self._text, self._grammars.new_mask(rows), places, self._sampling)

    def _begin(self, waiting: _Waiting, writing: dict[int, _Asked], rows: int) -> None:
        """Read the prompts of the requests that wait; one too long for the slots waits until all of them are free."""
        if waiting and not writing:
            self._make_room(waiting[0][0], rows)
        while waiting and waiting[0][0].places <= self._decoder_now.slots.places:
            asked, request = waiting.popleft()
            self._decoder_now.admit(asked.slot, self._prompts.write(asked.ids, request))
            writing[asked.slot] = asked

    def _release(self, writing: dict[int, _Asked], slot: int) -> None:
        del writing[slot]
        if self._decoder is not None:
            self._decoder.release(slot)

    def _take_step(self, writing: dict[int, _Asked]) -> None:
        """Choose a token for every reply in progress, and start reading it."""
        decoder = self._decoder_now
        self._grammars.fill(decoder.mask, [(slot, asked.draft.grammar) for slot, asked in writing.items()])
        if not self._sampling.greedy:
            for slot, asked in writing.items():
                decoder.chances[slot] = asked.chance.random(dtype=np.float32)
        decoder.choose()
        decoder.advance()
        chosen = decoder.chosen()
        for slot, asked in writing.items():
            asked.draft.append(*chosen[slot])


def _share_time(writing: dict[int, _Asked], since: float) -> float:
    """Give each reply in progress an equal share of the time since then; return the time."""
    now = time.perf_counter()
    for asked in writing.values():
        asked.seconds += (now - since) / len(writing)
    return now
