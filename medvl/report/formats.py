"""Turns header values and replies into plain, bounded text. Escaping markup is the template engine's work."""

from __future__ import annotations

import re

SHOWN_CHARACTERS = 600  # of one value; report.json keeps the rest

# Control characters, bidirectional controls (they can show text in another order than it is stored), lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
_DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(\d{2})(:?\d{2}(\.\d+)?)?")


def plain_text(text: str) -> str:
    """Return text with hidden and reordering characters made visible, cut to SHOWN_CHARACTERS."""
    shown = _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text[:SHOWN_CHARACTERS])
    return f"{shown} … (+{len(text) - SHOWN_CHARACTERS:,})" if len(text) > SHOWN_CHARACTERS else shown


def person_name(value: str) -> str:
    """Write a DICOM person name as people do: "Doe^Jane" becomes "Doe, Jane".

    The ideographic group, if any, follows in brackets. Source: PS3.5 6.2.1.
    """
    alphabetic, _, rest = value.partition("=")
    ideographic = " ".join(rest.partition("=")[0].replace("^", " ").split())
    family, given, middle, prefix, suffix = (*alphabetic.split("^"), "", "", "", "", "")[:5]
    parts = (family, f"{given} {middle}", prefix, suffix)
    name = ", ".join(part.strip() for part in parts if part.strip())
    return f"{name} ({ideographic})" if name and ideographic else name or ideographic


def iso_date(value: str) -> str:
    """Write a DICOM date (DA) as 2026-11-22; anything else is returned as it is."""
    match = _DATE.fullmatch(value.strip())
    return "-".join(match.groups()) if match else value


def clock(value: str) -> str:
    """Write a DICOM time (TM) as 10:15; anything else is returned as it is."""
    match = _TIME.fullmatch(value.strip())
    return f"{match[1]}:{match[2]}" if match else value


def utc_minute(value: str) -> str:
    """Write an ISO 8601 UTC moment as 2026-11-22 10:15 UTC."""
    return f"{value[:16].replace('T', ' ')} UTC" if value else ""


def age_years(birth_date: str, on_date: str) -> int | None:
    """Return the age in whole years; None unless both dates are whole and in order."""
    born, day = _DATE.fullmatch(birth_date.strip()), _DATE.fullmatch(on_date.strip())
    if not born or not day:
        return None
    years = int(day[1]) - int(born[1]) - ((day[2], day[3]) < (born[2], born[3]))
    return years if years >= 0 else None


def dash(value: int | None) -> str:
    """Write a number that may be missing."""
    return "–" if value is None else str(value)


def decimal(value: float | None, places: int = 1) -> str:
    """Write a number with at most `places` decimals and a true minus sign; a dash for None."""
    if value is None:
        return "–"
    text = f"{value:.{places}f}"
    text = text.rstrip("0").rstrip(".") if places else text
    return "0" if text == "-0" else text.replace("-", "−")


def whole_mm(value: float | None) -> str:
    """Write a length in whole millimetres, the precision a box supports; a dash for None."""
    return "<1" if value is not None and 0 < value < 0.5 else decimal(value, 0)


def duration(seconds: float) -> str:
    """Write a wall time: 8 s, 4 min 12 s, 1 h 05 min."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
