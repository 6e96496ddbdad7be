"""Makes text from headers and file names fit to show. Knows nothing of what the text means."""

from __future__ import annotations

import re
import unicodedata

# Embedding, override and isolate marks turn what a reader sees around; no header needs them (Unicode UAX #9).
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_PLAIN = re.compile(r"[ -~]*")
_LONGEST = 1024  # no short text of DICOM may be longer (PS3.5 table 6.2-1, ST)


def clean_text(text: str) -> str:
    """Drop control, bidirectional and undecodable characters, and spaces at the ends; cut at 1024 characters."""
    text = text[:_LONGEST]
    if _PLAIN.fullmatch(text):
        return text.strip()
    return "".join(" " if char in "\t\r\n" else char for char in text if _is_shown(char)).strip()


def display_name(alphabetic: str, ideographic: str = "") -> str:
    """Turn a person name's component groups, `Family^Given^Middle^Prefix^Suffix`, into "Family, Given Middle".

    The ideographic group, where there is one, follows in brackets (PS3.5 6.2.1).
    """
    family, _, rest = clean_text(alphabetic).partition("^")
    given = " ".join(part for part in rest.split("^")[:2] if part)
    spoken = ", ".join(part for part in (family, given) if part)
    written = " ".join(part for part in clean_text(ideographic).split("^") if part)
    return f"{spoken} ({written})" if spoken and written else spoken or written


def _is_shown(char: str) -> bool:
    if char in "\t\r\n":
        return True
    return char not in _BIDI and unicodedata.category(char) not in {"Cc", "Cs"}
