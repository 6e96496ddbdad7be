"""Makes readings of the bodies that servers answer with. What is no answer is garbled, never a reading."""

from __future__ import annotations

import codecs
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medvl.records import Reading, Token


class GarbledError(Exception):
    """A body that is not what the protocol promises; the same request may be answered properly next time."""


def parse_answer(body: str, seconds: float, *, wants_json: bool) -> Reading:
    """Read the body of a chat completion.

    wants_json: a reply that ended of itself must hold an object. A server that was not told of the schema may wrap it
    in prose or markup, which is for `medvl.findings.recover` to see through.
    Raises GarbledError, saying what was wrong.
    """
    choice = _first(_parsed(body).get("choices"), "choices")
    text = _mapping(choice.get("message"), "message").get("content")
    if not isinstance(text, str) or not text.strip():
        raise GarbledError("a reply without text")
    complete = choice.get("finish_reason") != "length"
    if wants_json and complete and not _holds_object(text):
        raise GarbledError("a reply without the JSON that was asked for")
    return Reading(text, _tokens(choice.get("logprobs")), complete, _prompt_tokens(_parsed(body)), seconds)


def parse_models(body: str) -> tuple[Mapping[str, Any], ...]:
    """Read the list of models a server has. Raises GarbledError."""
    listed = _parsed(body).get("data")
    if not isinstance(listed, list):
        raise GarbledError("a list of models that is none")
    return tuple(each for each in listed if isinstance(each, dict) and isinstance(each.get("id"), str))


def revision(body: str) -> str:
    """Return what a chat completion says of the server's revision, empty where it says nothing."""
    told = _parsed(body).get("system_fingerprint")
    return told if isinstance(told, str) else ""


def message_in(body: str) -> str:
    """Return the sentence in a refusal: servers nest it differently, and gateways answer in plain text or HTML.

    Known forms: {"error": {"message": …}}, {"object": "error", "message": …}, {"error": …}, {"detail": …}.
    """
    try:
        found = _parsed(body)
    except GarbledError:
        return body
    error = found.get("error", found)
    told = error.get("message", error.get("detail", error)) if isinstance(error, dict) else error
    return told if isinstance(told, str) else json.dumps(told)


def _parsed(body: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise GarbledError("an answer that is not JSON") from None
    return _mapping(found, "answer")


def _first(items: Any, name: str) -> dict[str, Any]:
    if not isinstance(items, list) or not items:
        raise GarbledError(f"an answer without {name}")
    return _mapping(items[0], name)


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GarbledError(f"an answer without {name}")
    return value


def _holds_object(text: str) -> bool:
    decoder = json.JSONDecoder(strict=False)
    brace = text.find("{")
    if brace < 0:
        return False
    try:
        decoder.raw_decode(text, brace)
    except (ValueError, RecursionError):
        return False
    return True


def _prompt_tokens(answer: Mapping[str, Any]) -> int:
    usage = answer.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    """Return the tokens with their probabilities; none at all unless every one of them is usable."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return ()
    try:
        probabilities = [_probability(float(each["logprob"])) for each in content]
        return tuple(map(Token, _texts(content), probabilities))
    except (LookupError, TypeError, ValueError):
        return ()


def _probability(logprob: float) -> float:
    """Return a probability in (0, 1]; servers say −9999 for never, and a hair above 0 for certain."""
    if math.isnan(logprob):
        raise ValueError("a probability that is no number")
    return max(math.exp(min(logprob, 0.0)), sys.float_info.min)


def _texts(content: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Spell each token; a character spread over several tokens belongs to the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for each in content:
        told = each.get("bytes")
        yield decoder.decode(bytes(told) if told is not None else str(each["token"]).encode())
