"""Text that came from outside, made harmless: replies of a model, values of a header."""

from __future__ import annotations

import unicodedata


def clean_text(text: str, limit: int) -> str:
    """Return one line of at most `limit` characters that shows what it is.

    Control, bidirectional, zero-width, private and lone surrogate characters go (Unicode categories C*), and so do
    the marks that chat forms are built from: "<|" opens every special token of Qwen's tokenizer.
    """
    line = "".join(" " if character.isspace() else character for character in text[: 8 * limit])
    shown = "".join(character for character in line if not unicodedata.category(character).startswith("C"))
    words = " ".join(shown.replace("<|", "").replace("|>", "").split())
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"
