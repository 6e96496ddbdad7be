"""Talks HTTP with one server through the official `openai` client, and makes a `Fault` of whatever is no answer.

The client's own habits are kept out: it would take a key, an organisation and headers from the environment, send a
description of this machine with every request, go through proxies and follow redirects.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from medvl.address import ServerAddress
from medvl.errors import ModelError
from medvl.reader.remote.answers import GarbledError, parse_models
from medvl.reader.remote.faults import Fault, judge_refusal
from medvl.reader.remote.messages import Arguments
from medvl.reader.remote.pace import Patience

try:
    import openai
except ImportError as error:
    raise ModelError(
        "The openai package is not installed", expected="--server speaks through it", todo="pip install 'medvl[server]'"
    ) from error

_KEPT_HEADERS = frozenset({"host", "content-length", "content-type", "accept", "accept-encoding", "connection"})


class Connection:
    """An open line to one server. Lives in one event loop."""

    def __init__(self, address: ServerAddress, patience: Patience) -> None:
        kept = _KEPT_HEADERS | ({"authorization"} if address.api_key else set())

        async def strip(request: Any) -> None:
            for name in [name for name in request.headers if name.lower() not in kept]:
                del request.headers[name]

        self._http = openai.DefaultAsyncHttpxClient(
            trust_env=False, follow_redirects=False, event_hooks={"request": [strip]}
        )
        self._client = openai.AsyncOpenAI(
            api_key=address.api_key or "none",  # the client insists on one; its header is stripped
            base_url=address.base_url,
            timeout=openai.Timeout(patience.request_s, connect=patience.connect_s),
            max_retries=0,
            http_client=self._http,
        )

    async def list_models(self) -> tuple[Mapping[str, Any], ...]:
        """Return what the server says of each model it has. Raises Fault."""
        body = await _heard(self._client.get("/models", cast_to=str))
        try:
            return parse_models(body)
        except GarbledError as error:
            raise Fault("broken", f"the server answered with {error}") from None

    async def complete(self, arguments: Arguments) -> str:
        """Return the body of one chat completion. Raises Fault."""
        return await _heard(self._client.post("/chat/completions", cast_to=str, body=arguments))

    async def close(self) -> None:
        """Hang up."""
        await self._client.close()


async def _heard(asking: Awaitable[str]) -> str:
    """Return the body of an answer, which need not be JSON. Raises Fault if there is none, or half of it."""
    try:
        return await asking
    except openai.APITimeoutError:
        raise Fault("busy", "the server did not answer in time") from None
    except openai.APIStatusError as error:
        answer = error.response
        raise judge_refusal(answer.status_code, answer.headers, answer.text) from None
    except openai.APIConnectionError as error:
        cause = type(error.__cause__).__name__  # refused, reset, half a body: names nothing but the way it failed
        raise Fault("lost", f"the connection to the server failed ({cause})") from None
