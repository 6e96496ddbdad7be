"""The first words with a server: which model, what it can do, and what reads then."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple, TypeVar

import numpy as np

from medvl.errors import ModelError
from medvl.findings.schema import reply_schema
from medvl.reader.identity import Sampling
from medvl.reader.remote.answers import GarbledError, parse_answer, revision
from medvl.reader.remote.connection import Connection
from medvl.reader.remote.faults import Fault
from medvl.reader.remote.messages import Features, chat_arguments, describe_sampling
from medvl.reader.remote.pace import Patience
from medvl.records import ReaderIdentity, Request

Result = TypeVar("Result")

UNVERIFIED = "Read by a server: medvl cannot verify which weights it holds and how it runs them"
_PROBE_PX = 256  # the stock processor of Qwen3-VL enlarges anything smaller
_PROBE_TOKENS = 64
_MOST_NAMES = 10
# What a server says of a model that is still true when it is started again or elsewhere; `created` often is the time.
_LASTING = ("id", "root", "parent")
_LASTING_META = ("vocab_type", "n_vocab", "n_embd", "n_params", "size")  # llama.cpp's


class Greeted(NamedTuple):
    """What the first words have told."""

    model: str
    features: Features
    identity: ReaderIdentity


async def greet(connection: Connection, model: str, sampling: Sampling, patience: Patience) -> Greeted:
    """Choose the model and try it out with one small grey picture.

    A server that is still loading is waited for. Raises Fault, ModelError if there is no such model, TimeoutError.
    """
    async with asyncio.timeout(patience.loading_s):
        facts = choose_model(await _patiently(connection.list_models, patience), model)
        features, answer = await _try_out(connection, str(facts["id"]), sampling, patience)
    identity = describe_server(facts, revision(answer), features, sampling)
    return Greeted(identity.model, features, identity)


def choose_model(models: Sequence[Mapping[str, Any]], wanted: str) -> Mapping[str, Any]:
    """Return the facts of the model that is wanted, or of the only one. Raises ModelError naming what there is."""
    named = [each for each in models if each["id"] == wanted] if wanted else list(models)
    if len(named) == 1:
        return named[0]
    names = ", ".join(str(each["id"]) for each in models[:_MOST_NAMES]) or "none"
    raise ModelError(
        f"The server has no model {wanted}" if wanted else f"The server has {len(models)} models",
        expected=f"One of: {names}",
        todo="Choose it with --model",
    )


def describe_server(facts: Mapping[str, Any], told: str, features: Features, sampling: Sampling) -> ReaderIdentity:
    """Say what reads. The fingerprint is of what the server tells of its model, since its weights are out of reach.

    told: its revision, empty where it tells none. Where the server listens plays no part.
    """
    meta = facts.get("meta")
    lasting = {key: facts[key] for key in _LASTING if key in facts}
    lasting |= {key: meta[key] for key in _LASTING_META if key in meta} if isinstance(meta, dict) else {}
    canonical = json.dumps({**lasting, "revision": told}, sort_keys=True, default=str)
    return ReaderIdentity(
        model=str(facts["id"]),
        fingerprint=hashlib.sha256(f"medvl server 1\n{canonical}".encode()).hexdigest(),
        precision="as served",
        device="server",
        generation=describe_sampling(sampling, features),
        versions=(("openai", version("openai")), *((("server", told),) if told else ())),
        warning=UNVERIFIED,
        decode="server",
    )


async def _try_out(connection: Connection, model: str, sampling: Sampling, patience: Patience) -> tuple[Features, str]:
    """Ask with fewer and fewer of the protocol's options until a request is taken; return them and its answer."""
    grey = np.full((_PROBE_PX, _PROBE_PX), 128, dtype=np.uint8)
    request = Request(("Here is a picture.", grey, "Reply that there are no findings."), reply_schema(1), _PROBE_TOKENS)
    refusals = []
    for features in (Features(), Features(logprobs=False), Features(json_schema=False), Features(False, False)):
        arguments = chat_arguments(request, model, features, sampling)

        async def ask(sent: dict[str, Any] = arguments) -> str:
            body = await connection.complete(sent)
            try:
                parse_answer(body, 0.0, wants_json=False)
            except GarbledError as error:
                raise Fault("broken", f"the server gave {error}") from None
            return body

        try:
            return features, await _patiently(ask, patience)
        except Fault as fault:
            if fault.kind in ("lost", "closed"):
                raise
            refusals.append(fault)
    raise refusals[-1]


async def _patiently(ask: Callable[[], Awaitable[Result]], patience: Patience) -> Result:
    """Ask a server that may be busy loading, or break once in a while. Raises Fault for any other trouble."""
    failures = broken = 0
    while True:
        try:
            return await ask()
        except Fault as fault:
            failures, broken = failures + 1, broken + (fault.kind == "broken")
            if fault.kind not in ("busy", "broken") or broken >= patience.broken_tries:
                raise
            pause_s = max(fault.wait_s, patience.pause_s(failures))
        await asyncio.sleep(pause_s)
