"""Holds replies to a JSON Schema while they are written: which tokens may come next, row by row.

A thin layer over llguidance. Its own torch helper compiles on first use, so the bit mask becomes a boolean mask here.
Knows nothing of models and of how tokens are chosen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
from torch import Tensor

from medvl.errors import ReadingError


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

    def start(self, schemas: Iterable[str | None]) -> BatchGrammar:
        """Begin one reply per schema; None is free text, held to ordinary tokens and the end of the turn."""
        matchers = [None if schema is None else self._matcher(schema) for schema in schemas]
        return BatchGrammar(matchers, self._free_text, self.vocab, self._executor)

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

    def _pack_free_text(self, token_count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        allowed = np.zeros(allocate_token_bitmask(1, self.vocab).size * 32, dtype=np.uint8)
        allowed[:token_count] = [not self._vocabulary.is_special_token(token) for token in range(token_count)]
        allowed[list(self.end_ids)] = 1
        return np.packbits(allowed, bitorder="little").view(np.int32)


class BatchGrammar:
    """How far each reply of a batch has come in its grammar."""

    def __init__(
        self,
        matchers: Sequence[LLMatcher | None],
        free_text: np.ndarray[Any, np.dtype[np.int32]],
        vocab: int,
        executor: LLExecutor,
    ) -> None:
        self._matchers = list(matchers)
        self._vocab = vocab
        self._executor = executor
        self._mask = allocate_token_bitmask(len(self._matchers), vocab)
        self._mask[:] = free_text

    def allowed(self, rows: Sequence[int], device: torch.device) -> Tensor:
        """Return (all rows, vocab) bool: the tokens that may come next. Rows not asked for keep their last mask.

        Raises ReadingError if a reply has left its grammar, which a caller that follows the mask never sees.
        """
        asked = [(matcher, row) for row in rows if (matcher := self._matchers[row]) is not None]
        if asked:
            fill_next_token_bitmask_par(self._executor, asked, self._mask)
        for matcher, _ in asked:
            if matcher.is_error():
                raise ReadingError(f"The reply cannot be held to its schema: {matcher.get_error()}")
        packed = torch.from_numpy(self._mask.view(np.uint8)).to(device).unsqueeze(-1)
        bits = (packed >> torch.arange(8, dtype=torch.uint8, device=device)) & 1
        return bits.flatten(1)[:, : self._vocab].bool()

    def advance(self, row: int, token: int) -> None:
        """Take note of the token chosen for a row."""
        if (matcher := self._matchers[row]) is not None:
            matcher.consume_token(token)

    def finished(self, row: int) -> bool:
        """Tell whether a reply is whole and can only end now; free text never is."""
        matcher = self._matchers[row]
        return matcher is not None and bool(matcher.is_stopped()) and not matcher.is_error()
