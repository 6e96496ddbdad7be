"""Counts the tokens of a text: exactly with a checkpoint's own tokenizer, roughly without one."""

from __future__ import annotations

from pathlib import Path

_CHARACTERS_PER_TOKEN = 4.0  # of English prose in Qwen's vocabulary
_WIDE_CHARACTERS_PER_TOKEN = 1.4  # of Chinese


class TokenCounter:
    """Counts tokens of texts, exactly if the checkpoint is on disk."""

    def __init__(self, folder: Path | None) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json" if folder else None
        self._tokenizer = Tokenizer.from_file(str(path)) if path and path.exists() else None

    def count(self, text: str) -> int:
        """Count the tokens of a text, special ones left out."""
        if self._tokenizer is not None:
            return len(self._tokenizer.encode(text, add_special_tokens=False).ids)
        wide = sum(1 for character in text if ord(character) > 0x2E7F)
        return round((len(text) - wide) / _CHARACTERS_PER_TOKEN + wide / _WIDE_CHARACTERS_PER_TOKEN) + 1
