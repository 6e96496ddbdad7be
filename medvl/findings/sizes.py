"""Sizes that a model typed into its own words. They are shown beside what was measured, never instead of it."""

from __future__ import annotations

import re
import unicodedata

_MM_PER_UNIT = {"mm": 1.0, "millimet": 1.0, "毫米": 1.0, "cm": 10.0, "centimet": 10.0, "厘米": 10.0, "公分": 10.0}
_NUMBER = r"\d{1,4}(?:[.,]\d{1,2})?"
_JOINT = r"\s*(?:[x*\-~]|to|by|至|到|乘)\s*"  # of an area, or of a range
# One number, or several that share a unit: "12 mm", "8 x 6 mm", "1.2–1.5 cm". A unit of pressure or of area is none.
_SIZE = re.compile(
    rf"(?<![\d.,])({_NUMBER}(?:{_JOINT}{_NUMBER}){{0,2}})[\s-]*"
    r"(?:(mm|cm)(?![a-z0-9^])|(millimet|centimet)(?:er|re)s?|(毫米|厘米|公分)(?!汞柱))(?!\s*from\b)",
    re.IGNORECASE,
)
# NFKC leaves dashes and the multiplication sign as they are.
_PLAIN = str.maketrans({"×": "x", "‐": "-", "‑": "-", "–": "-", "—": "-", "−": "-", "～": "~", "〜": "~"})
_POSITION = re.compile(r"[xyz]\s*=\s*-?[\d.]+\s*(?:mm|毫米)?", re.IGNORECASE)  # as in a picture's label


def typed_size_mm(*texts: str) -> float | None:
    """Return the largest size in millimetres that stands in the texts, None if there is none.

    English and Chinese forms. A distance ("12 mm from the pleura") and a position ("z = 12 mm") are no sizes.
    """
    sizes = [size for text in texts for size in _sizes_mm(text)]
    return max(sizes, default=None)


def _sizes_mm(text: str) -> list[float]:
    plain = _POSITION.sub(" ", unicodedata.normalize("NFKC", _without_powers(text)).translate(_PLAIN))
    return [
        float(number.replace(",", ".")) * _MM_PER_UNIT[next(filter(None, units)).lower()]
        for numbers, *units in _SIZE.findall(plain)
        for number in re.findall(_NUMBER, numbers)
    ]


def _without_powers(text: str) -> str:
    """Mark powers before they become plain digits: an area is no size."""
    return text.replace("²", "^2").replace("³", "^3")
