"""Reads by asking an OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, or a gateway before them.

What a server can do is found by asking it, not by its name: whether it holds replies to a schema and tells
probabilities when it is greeted, how much it takes in one request when it refuses. Probabilities are the server's:
most give a token's among the whole vocabulary, where the local reader gives it among those the schema allows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait

from medvl.address import ServerAddress
from medvl.errors import ModelError, TooLargeError
from medvl.reader.identity import Sampling
from medvl.reader.prompting import pictures_of
from medvl.reader.remote.answers import GarbledError, parse_answer
from medvl.reader.remote.asking import Asking
from medvl.reader.remote.connection import Connection
from medvl.reader.remote.faults import Fault
from medvl.reader.remote.greeting import Greeted, greet
from medvl.reader.remote.loop import LoopThread
from medvl.reader.remote.messages import Arguments, chat_arguments
from medvl.reader.remote.pace import Patience, Window
from medvl.records import ReaderIdentity, Reading, Request, Unanswered


def open_server(
    address: ServerAddress,
    model: str = "",
    *,
    sampling: Sampling | None = None,
    patience: Patience | None = None,
) -> ServerReader:
    """Connect to a server, choose its model and find out what it can do: one short question with one grey picture.

    model: as the server names it; may be left out where it has only one.
    Raises ModelError if the server cannot be reached, has no such model, or does not look at pictures.
    """
    sampling, patience = sampling or Sampling(), patience or Patience()
    loop = LoopThread()
    try:
        connection, greeted = loop.run(_call(address, model, sampling, patience))
    except BaseException:
        loop.close()
        raise
    return ServerReader(loop, _Line(connection, greeted, sampling, patience), greeted.identity)


class ServerReader:
    """A server that answers. Satisfies `Reader`; made by `open_server`."""

    independent = True  # as far as a client can tell: what a server reads beside a request is its own affair

    def __init__(self, loop: LoopThread, line: _Line, identity: ReaderIdentity) -> None:
        self._loop, self._line = loop, line
        self._identity = identity

    @property
    def identity(self) -> ReaderIdentity:
        """What reads."""
        return self._identity

    def read(self, requests: Iterable[Request], rows: int) -> Iterator[tuple[int, Reading | Unanswered]]:
        """Answer requests, at most `rows` at once, each with its number as soon as it is whole.

        What the server never answers in the end is `Unanswered`, and once it has fallen silent, so is all the rest.
        Raises TooLargeError if a request holds more than the server takes, ModelError if the server turns all of them
        down; either once everything else under way has been yielded.
        """
        self._line.window.limit(rows)
        self._loop.run(self._line.call_again())
        waiting, troubles = enumerate(requests), list[ModelError]()
        asked: dict[Future[Reading | Unanswered], int] = {}
        try:
            while True:
                while not troubles and len(asked) < self._line.window.size and (drawn := next(waiting, None)):
                    asked[self._loop.start(self._line.answer(drawn[1]))] = drawn[0]
                    del drawn  # or its pictures would stay as long as the wait
                if not asked:
                    break
                for future in wait(asked, return_when=FIRST_COMPLETED).done:
                    number = asked.pop(future)
                    if isinstance(error := future.exception(), ModelError):
                        troubles.append(error)
                    else:
                        yield number, future.result()
        finally:
            for future in asked:
                future.cancel()
        if troubles:
            raise min(troubles, key=_urgency)

    def close(self) -> None:
        """Hang up, whatever is under way."""
        if not self._loop.closed:
            self._loop.run(self._line.hang_up())
            self._loop.close()


def _urgency(error: ModelError) -> tuple[bool, int]:
    """What concerns all requests comes first, then the lowest limit."""
    return (True, error.too_many) if isinstance(error, TooLargeError) else (False, 0)


async def _call(
    address: ServerAddress, model: str, sampling: Sampling, patience: Patience
) -> tuple[Connection, Greeted]:
    connection = Connection(address, patience)
    try:
        return connection, await greet(connection, model, sampling, patience)
    except BaseException as error:
        await connection.close()
        if not isinstance(error, Fault | TimeoutError):
            raise
        raise ModelError(
            f"The server {address} cannot read: {error or 'it gave no answer'}",
            expected="An OpenAI-compatible server with a model that sees pictures",
            todo="Check that it runs, its URL, and the key in MEDVL_API_KEY or --api-key-file",
        ) from error


class _Line:
    """The conversation with one server, once greeted. Everything happens in one event loop."""

    def __init__(self, connection: Connection, greeted: Greeted, sampling: Sampling, patience: Patience) -> None:
        self.window = Window()
        self._connection, self._greeted = connection, greeted
        self._sampling, self._patience = sampling, patience
        self._too_many = 0  # pictures, once a refusal has told
        self._heard_at = time.monotonic()
        self._silence = ""  # why nothing is asked any more

    async def call_again(self) -> None:
        """Ask a server that had fallen silent for a sign of life."""
        if self._silence:
            try:
                async with asyncio.timeout(self._patience.connect_s):
                    await self._connection.list_models()
                    self._silence = ""
            except (Fault, TimeoutError):
                return

    async def answer(self, request: Request) -> Reading | Unanswered:
        """Ask until there is an answer or time is up. Raises TooLargeError, ModelError."""
        count = len(pictures_of(request))
        if self._silence:
            return Unanswered(self._silence)
        if count >= self._too_many > 0:
            raise TooLargeError(f"the server does not take {self._too_many} pictures at once", too_many=self._too_many)
        wants_json, began = request.json_schema is not None, time.monotonic()
        arguments = await asyncio.to_thread(
            chat_arguments, request, self._greeted.model, self._greeted.features, self._sampling
        )
        del request  # its pictures are in the arguments now
        asking = Asking(self._patience, self.window)
        try:
            reading = await asking.insist(lambda: self._ask(arguments, wants_json=wants_json))
        except TimeoutError:
            if self._heard_at < began:
                self._silence = f"the server fell silent: {asking.last}"
            return Unanswered(f"the server gave no answer within {self._patience.chunk_s:g} s: {asking.last}")
        except Fault as fault:
            return self._settle(fault, count)
        self._heard_at = time.monotonic()
        return reading

    async def hang_up(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def _ask(self, arguments: Arguments, *, wants_json: bool) -> Reading:
        began = time.monotonic()
        body = await self._connection.complete(arguments)
        try:
            return parse_answer(body, time.monotonic() - began, wants_json=wants_json)
        except GarbledError as error:
            raise Fault("broken", f"the server gave {error}") from None

    def _settle(self, fault: Fault, count: int) -> Unanswered:
        """Say what becomes of a request of `count` pictures that is not asked again."""
        if fault.kind == "large":
            limit = count if fault.picture_limit is None else min(count, fault.picture_limit + 1)
            if limit:  # none: the text alone is too long
                self._too_many = min(limit, self._too_many or limit)
            raise TooLargeError(fault.reason, too_many=limit)
        if fault.kind == "closed":
            raise ModelError(f"The server turns requests down: {fault.reason}")
        return Unanswered(fault.reason)
