"""The work that every row of the table does: random grey slices in chunks, with a prompt, replies of one length.

Knows nothing of who reads. The tokenizer is as wide as the model's and the schema is that of `medvl study`, so that
holding replies to it costs what it really costs.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from medvl.findings.schema import reply_schema
from medvl.reader.chat import ChatForm
from medvl.reader.tiny import SPECIAL_TOKENS, example_replies, train_tokenizer
from medvl.records import Request

_PADDING = 40  # a model's vocabulary is a little wider than its tokenizer's
_TRAINED = 3000  # tokens learnt from example replies; the rest are made-up words
_LONGEST_WORD = 12
_WORDS = ("Read", "these", "slices", "as", "a", "radiologist", "would", "and", "note", "every", "finding")


@dataclass(frozen=True, slots=True)
class Work:
    """How much is read."""

    chunks: int = 30
    pictures: int = 10  # per chunk
    size_px: int = 512
    text_tokens: int = 220  # per chunk: words, labels and marks
    new_tokens: int = 256  # per chunk, exactly
    timed_tokens: int = 24  # of a stock run that is extrapolated

    @property
    def slices(self) -> int:
        """Pictures in all."""
        return self.chunks * self.pictures

    def part(self, chunks: int, *, pictures: int | None = None, new_tokens: int | None = None) -> Work:
        """The same work with fewer chunks, pictures or new tokens."""
        return replace(
            self, chunks=chunks, pictures=pictures or self.pictures, new_tokens=new_tokens or self.new_tokens
        )


FULL = Work()
QUICK = Work(chunks=4, pictures=2, size_px=128, text_tokens=60, new_tokens=16, timed_tokens=6)


class Requests:
    """Makes requests; no two pictures of a run are equal, so that none is answered from memory."""

    def __init__(self, chat: ChatForm) -> None:
        self._chat = chat
        self._random = np.random.default_rng(0)

    def make(self, work: Work) -> list[Request]:
        """Return one request per chunk."""
        instruction = self._instruction(work)
        schema = endless_schema(work)
        return [self._request(work, instruction, schema) for _ in range(work.chunks)]

    def prompt_tokens(self, work: Work) -> int:
        """Count the tokens of one chunk's prompt."""
        return self._count(self._instruction(work), work, (work.size_px // 32) ** 2)

    def _request(self, work: Work, instruction: str, schema: str) -> Request:
        side = work.size_px
        pictures = self._random.integers(0, 256, (work.pictures, side, side), dtype=np.uint8)
        parts = (part if isinstance(part, str) else pictures[part] for part in self._shown(work))
        return Request((instruction, *parts), schema, work.new_tokens)

    def _shown(self, work: Work, picture_tokens: int | None = None) -> Iterator[str | int]:
        """Yield what follows the instruction; a picture is its number, or its tokens when these are given."""
        for number in range(work.pictures):
            yield number if picture_tokens is None else picture_tokens
            yield _label(number)
        yield "Answer as JSON."

    def _instruction(self, work: Work) -> str:
        """Return as many words as bring the text to its number of tokens, labels counted."""
        text = longer = _WORDS[0]
        for word in itertools.cycle(_WORDS[1:]):
            if self._count(longer, work, picture_tokens=0) > work.text_tokens:
                return text
            text, longer = longer, f"{longer} {word}"
        raise AssertionError("words never end")

    def _count(self, instruction: str, work: Work, picture_tokens: int) -> int:
        return len(self._chat.prompt_ids([instruction, *self._shown(work, picture_tokens)]))


def _label(number: int) -> str:
    return f"SLICE {number + 1} (z = {5 * number} mm)"


def endless_schema(work: Work) -> str:
    """Return the schema of a chunk's reply with so many findings that no reply ends by itself."""
    findings = max(1, work.new_tokens // 8)
    schema = json.loads(reply_schema(work.pictures, findings))
    schema["properties"]["findings"]["minItems"] = findings
    return json.dumps(schema)


def make_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer for a model whose logits are this wide.

    Grown from one trained on replies: a made-up word is a shorter token and one letter more, as in any byte-pair
    vocabulary, so that a walk through the vocabulary branches as much as through a real one.
    """
    corpus = itertools.chain(example_replies(), map(_label, range(1000)))
    small = train_tokenizer(corpus, min(_TRAINED, vocab - _PADDING))
    spec = json.loads(small.backend_tokenizer.to_str())
    words, merges = spec["model"]["vocab"], spec["model"]["merges"]
    random = np.random.default_rng(0)
    stems = [word for word in words if word.lstrip("Ġ").isascii() and word.lstrip("Ġ").isalpha()]
    while len(words) < vocab - _PADDING:
        stem, letter = stems[random.integers(len(stems))], chr(ord("a") + random.integers(26))
        if stem + letter not in words and len(stem) < _LONGEST_WORD:
            words[stem + letter] = len(words)
            merges.append([stem, letter])
            stems.append(stem + letter)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
    )
