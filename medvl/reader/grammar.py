"""Holds replies to a JSON Schema while they are written: which tokens may come next, reply by reply.

A thin layer over llguidance. Its own torch helper compiles on first use, so the bit masks stay numpy's here.
Knows nothing of models and of how tokens are chosen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from medvl.errors import ReadingError

Mask = NDArray[np.int32]  # (rows, ceil(vocab / 32)), bit i of a row: token i may come next, lowest bit first


class Grammars:
    """The vocabulary of one model, and the schemas compiled for it so far."""

    def __init__(self, tokenizer: Any, vocab: int, end_ids: Sequence[int]) -> None:
        """vocab: width of the model's logits, which may be padded beyond the tokenizer's last token."""
        self.vocab = vocab
        self.end_ids = tuple(end_ids)
        self._vocabulary = LLTokenizer(tokenizer.backend_tokenizer.to_str(), n_vocab=vocab, eos_token=list(end_ids))
        self._compiled: dict[str, LLMatcher] = {}
        self._executor = LLExecutor(num_threads=os.cpu_count() or 1)
        self._free_text = self._pack_free_text(len(tokenizer))

    def start(self, schema: str | None) -> Grammar:
        """Begin one reply; None is free text, held to ordinary tokens and the end of the turn."""
        return Grammar(None if schema is None else self._matcher(schema))

    def new_mask(self, rows: int) -> Mask:
        """Return a mask that allows nothing."""
        mask: Mask = allocate_token_bitmask(rows, self.vocab)
        mask[:] = 0
        return mask

    def fill(self, mask: Mask, rows: Sequence[tuple[int, Grammar]]) -> None:
        """Write which tokens may come next into some rows of a mask; the others stay as they are.

        Raises ReadingError if a reply has left its grammar, which a caller that follows the mask never sees.
        """
        for row, grammar in rows:
            if grammar.matcher is None:
                mask[row] = self._free_text
        held = [(grammar.matcher, row) for row, grammar in rows if grammar.matcher is not None]
        if held:
            fill_next_token_bitmask_par(self._executor, held, mask)
        for matcher, _ in held:
            if matcher.is_error():
                raise ReadingError(f"The reply cannot be held to its schema: {matcher.get_error()}")

    def spell(self, token: int) -> bytes:
        """Return the bytes a token stands for; one character may be spread over several tokens."""
        return bytes(self._vocabulary.decode_bytes([token]))

    def _matcher(self, schema: str) -> LLMatcher:
        if schema not in self._compiled:
            matcher = LLMatcher(self._vocabulary, LLMatcher.grammar_from_json_schema(schema), log_level=0)
            if matcher.is_error():
                raise ValueError(f"a reply schema that cannot be compiled: {matcher.get_error()}")
            self._compiled[schema] = matcher
        return self._compiled[schema].deep_copy()

    def _pack_free_text(self, token_count: int) -> Mask:
        allowed = np.zeros(allocate_token_bitmask(1, self.vocab).size * 32, dtype=np.uint8)
        allowed[:token_count] = [not self._vocabulary.is_special_token(token) for token in range(token_count)]
        allowed[list(self.end_ids)] = 1
        return np.packbits(allowed, bitorder="little").view(np.int32)


class Grammar:
    """How far one reply has come in its grammar."""

    def __init__(self, matcher: LLMatcher | None) -> None:
        self.matcher = matcher

    def advance(self, token: int) -> None:
        """Take note of the token that was chosen."""
        if self.matcher is not None:
            self.matcher.consume_token(token)

    @property
    def finished(self) -> bool:
        """Whether the reply is whole and can only end now; free text never is."""
        return self.matcher is not None and bool(self.matcher.is_stopped()) and not self.matcher.is_error()
