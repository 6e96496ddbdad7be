"""Turns a request into what the OpenAI chat-completions protocol sends. Nothing but its text and pictures goes out."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvl.reader.identity import Sampling
from medvl.records import Request

Arguments = dict[str, Any]

_VENDOR_KEYS = ("x-guidance",)  # a schema's options for our own grammar


@dataclass(frozen=True, slots=True)
class Features:
    """Which optional parts of the protocol a server accepts."""

    json_schema: bool = True  # replies are held to a JSON Schema
    logprobs: bool = True  # each token comes with its probability


def chat_arguments(request: Request, model: str, features: Features, sampling: Sampling) -> Arguments:
    """Return the body of a chat completion: one user turn, its parts in the request's order.

    Source: the OpenAI API reference, "Create chat completion".
    """
    arguments: Arguments = {
        "model": model,
        "messages": [{"role": "user", "content": list(_content(request))}],
        "max_tokens": request.max_new_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
    }
    if not sampling.greedy:
        arguments["top_p"] = sampling.top_p
    if features.json_schema and request.json_schema is not None:
        arguments["response_format"] = _response_format(request.json_schema)
    if features.logprobs:
        arguments["logprobs"] = True
    return arguments


def describe_sampling(sampling: Sampling, features: Features) -> str:
    """Say how a server chooses tokens, as shown in the report and kept in ledger keys."""
    held = "replies held to a JSON Schema by the server" if features.json_schema else "replies not held to a schema"
    if sampling.greedy:
        return f"greedy, {held}"
    drawn = f"sampled: temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, seed {sampling.seed}"
    return f"{drawn}, {held}"  # top-k is not part of the protocol


def _content(request: Request) -> Iterator[dict[str, Any]]:
    """Yield text and pictures; neighbouring texts are one, since some servers put line breaks between parts."""
    pending = ""
    for part in request.parts:
        if isinstance(part, str):
            pending += part
            continue
        if pending:
            yield {"type": "text", "text": pending}
        pending = ""
        yield {"type": "image_url", "image_url": {"url": _png_url(part)}}
    if pending:
        yield {"type": "text", "text": pending}


def _png_url(picture: NDArray[np.uint8]) -> str:
    """Return a PNG as data URL: pixels alone, no text chunk, no time."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode("ascii")


def _response_format(json_schema: str) -> dict[str, Any]:
    schema = {key: value for key, value in json.loads(json_schema).items() if key not in _VENDOR_KEYS}
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}
