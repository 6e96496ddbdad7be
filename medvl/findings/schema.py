"""The form a reply must have, as canonical JSON Schema for the reader's grammar.

Everything is bounded: Qwen3-VL can list for ever once it has begun to repeat itself, so arrays and strings have a
length, and numbers a range. Keys come in the order in which they are best decided: where, then what, then how sure.
"""

from __future__ import annotations

import json
from typing import Any, get_args

from medvl.records import Certainty, Side

MAX_FINDINGS = 8
OBSERVATION_CHARACTERS = 60
SITE_CHARACTERS = 60
DESCRIPTION_CHARACTERS = 200
MAX_SENTENCES = 5
SENTENCE_CHARACTERS = 200
BOX_UNITS = 1000  # Qwen3-VL's coordinates: 0–1000 along each side of the picture
SIDES: tuple[Side, ...] = get_args(Side)
CERTAINTIES: tuple[Certainty, ...] = get_args(Certainty)
ANSWERS = ("yes", "no")

# llguidance's own options: one spelling of every reply, so that no token is spent on layout.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def reply_schema(picture_count: int, max_findings: int = MAX_FINDINGS) -> str:
    """Return the schema of the reply to one chunk of `picture_count` pictures, numbered from 1."""
    picture = _integer(1, picture_count)
    finding = _object(
        {
            "slice": picture,
            "bbox_2d": {"type": "array", "items": _integer(0, BOX_UNITS), "minItems": 4, "maxItems": 4},
            "first_slice": picture,
            "last_slice": picture,
            "observation": _string(OBSERVATION_CHARACTERS),
            "site": _string(SITE_CHARACTERS),
            "side": {"enum": list(SIDES)},
            "certainty": {"enum": list(CERTAINTIES)},
            "description": _string(DESCRIPTION_CHARACTERS),
        }
    )
    return _canonical(_object({"findings": {"type": "array", "items": finding, "maxItems": max_findings}}))


def look_schema() -> str:
    """Return the schema of the answer to a closed question: yes or no."""
    return _canonical(_object({"answer": {"enum": list(ANSWERS)}}))


def impression_schema(finding_count: int) -> str:
    """Return the schema of an impression of `finding_count` findings, numbered from 1; at least one is needed."""
    cited = {
        "type": "array",
        "items": _integer(1, finding_count),
        "minItems": 1,
        "maxItems": finding_count,
    }
    sentence = _object({"text": _string(SENTENCE_CHARACTERS), "findings": cited})
    sentences = {"type": "array", "items": sentence, "minItems": 1, "maxItems": MAX_SENTENCES}
    return _canonical(_object({"impression": sentences}))


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _integer(smallest: int, largest: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": smallest, "maximum": largest}


def _string(characters: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": characters}


def _canonical(schema: dict[str, Any]) -> str:
    # Keys keep their order: the grammar writes an object's properties in the order of its schema.
    return json.dumps({**schema, "x-guidance": _LAYOUT}, separators=(",", ":"))
