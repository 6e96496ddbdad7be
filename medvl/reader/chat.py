"""Turns a request into the token ids of Qwen3-VL's chat form, without a processor.

One user turn of text and pictures, then the opening of the assistant's turn:

    <|im_start|>user⏎ text <|vision_start|><|image_pad|>×n<|vision_end|> text … <|im_end|>⏎ <|im_start|>assistant⏎

Knows nothing of pixels: a picture is the number of vision tokens it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from medvl.errors import ModelError


class ChatForm:
    """The chat form of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """tokenizer: a transformers tokenizer. Raises ModelError if it lacks one of Qwen's special tokens."""
        self._tokenizer = tokenizer
        self._turn_start = self._special("<|im_start|>")
        self._turn_end = self._special("<|im_end|>")
        self._picture_start = self._special("<|vision_start|>")
        self._picture_end = self._special("<|vision_end|>")
        self.picture_pad = self._special("<|image_pad|>")

    def prompt_ids(self, parts: Iterable[str | int]) -> list[int]:
        """Return the ids of one user turn and the opening of the reply.

        parts: texts, and pictures as their number of vision tokens, in the order they are to be seen.
        """
        ids = [self._turn_start]
        pending = "user\n"  # neighbouring texts are one text to the tokenizer, as they are in the stock template
        for part in parts:
            if isinstance(part, str):
                pending += part
                continue
            ids += [*self._text(pending), self._picture_start, *[self.picture_pad] * part, self._picture_end]
            pending = ""
        ids += [*self._text(pending), self._turn_end, *self._text("\n")]
        return [*ids, self._turn_start, *self._text("assistant\n")]

    def _text(self, text: str) -> Sequence[int]:
        # Split special tokens: a DICOM header that spells "<|im_end|>" is text here, never the end of a turn.
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        ids: list[int] = encoded["input_ids"]
        return ids

    def _special(self, token: str) -> int:
        number = self._tokenizer.get_vocab().get(token)
        if number is None:
            raise ModelError(
                f"The tokenizer has no token {token}",
                expected="Qwen3-VL's chat form needs it",
                todo="Check the checkpoint with `medvl models verify`",
            )
        return int(number)
