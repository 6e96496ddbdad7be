"""Text that came from outside, made harmless: replies of a model, values of a header, names of files."""

from __future__ import annotations

import re
import unicodedata

_PLAIN = re.compile(r"[!-~]+( [!-~]+)*")


def clean_text(text: str, limit: int) -> str:
    """Return one line of at most `limit` characters that shows what it is.

    Control, bidirectional, zero-width, private and lone surrogate characters go (Unicode categories C*), and so do
    the marks that chat forms are built from: "<|" opens every special token of Qwen's tokenizer.
    """
    if len(text) <= limit and "|" not in text and _PLAIN.fullmatch(text):
        return text  # nearly every header value; ten thousand files have a quarter of a million of them
    line = "".join(" " if character.isspace() else character for character in text[: 8 * limit])
    shown = "".join(character for character in line if not unicodedata.category(character).startswith("C"))
    while "<|" in shown or "|>" in shown:  # again, since "<<||" would leave a mark behind
        shown = shown.replace("<|", "").replace("|>", "")
    words = " ".join(shown.split())
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 slice", "2 slices"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
