"""Requests as the pipeline makes them, small."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np

from medvl.reader.protocol import Reader
from medvl.records import Reading, Request

SCHEMA = json.dumps(
    {
        "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
        "type": "object",
        "properties": {
            "findings": {
                "type": "array",
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {
                        "slice": {"type": "integer", "minimum": 1, "maximum": 4},
                        "side": {"enum": ["left", "right"]},
                        "site": {"type": "string", "minLength": 1, "maxLength": 12},
                    },
                    "required": ["slice", "side", "site"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["findings"],
        "additionalProperties": False,
    }
)


def make_request(
    pictures: int = 1,
    *,
    size_px: int = 64,
    cap: int = 120,
    schema: str | None = SCHEMA,
    text: str = "You are an experienced radiologist.",
    seed: int = 0,
) -> Request:
    random = np.random.default_rng([seed, pictures, size_px])
    parts: list[object] = [text]
    for number in range(1, pictures + 1):
        parts += [random.integers(0, 256, (size_px, size_px), dtype=np.uint8), f"SLICE {number} (z = {number} mm)"]
    return Request((*parts, "Answer as JSON."), schema, cap)  # type: ignore[arg-type]


def read(reader: Reader, requests: Iterable[Request], rows: int = 8) -> list[Reading]:
    """Have requests answered; each must be, once."""
    answers = list(reader.read(requests, rows))
    numbered = dict(answers)
    assert sorted(numbered) == list(range(len(answers)))
    return [numbered[number] for number in range(len(answers))]
