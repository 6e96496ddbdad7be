"""Replies as they grow, token by token. Knows nothing of models and of how tokens are chosen."""

from __future__ import annotations

import codecs
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from medvl.errors import ModelError
from medvl.reader.grammar import Grammars
from medvl.records import Request, Token


@dataclass(frozen=True, slots=True)
class Reply:
    """One written reply."""

    tokens: tuple[Token, ...]
    complete: bool  # False: cut off by the token cap

    @property
    def text(self) -> str:
        """The tokens' texts in a row."""
        return "".join(token.text for token in self.tokens)


class Draft:
    """One reply being written: its tokens so far, and whether it has ended."""

    def __init__(self, grammars: Grammars, request: Request) -> None:
        self.grammar = grammars.start(request.json_schema)
        self.ended = False
        self._grammars = grammars
        self._cap = request.max_new_tokens
        self._ids: list[int] = []
        self._probabilities: list[float] = []
        self._complete = False

    def append(self, token: int, probability: float) -> None:
        """Take note of the chosen token and its probability among those that were allowed.

        Raises ModelError if that is no number: whatever the token is, the model did not choose it.
        """
        if math.isnan(probability):
            raise ModelError(
                "The model's numbers overflow or are none, so that it chooses nothing",
                expected="Finite weights, in a precision that suits them",
                todo="Check it with `medvl models verify`, or choose another --precision",
            )
        if token in self._grammars.end_ids:
            self._complete = self.ended = True
            return
        self._ids.append(token)
        # Rounding may leave (0, 1]: a certain token a hair above 1, an unlikely one that was sampled at 0.
        self._probabilities.append(min(max(probability, sys.float_info.min), 1.0))
        self.grammar.advance(token)
        self._complete = self.grammar.finished
        self.ended = self._complete or len(self._ids) >= self._cap

    def finish(self) -> Reply:
        """Return the reply as it stands."""
        return Reply(tuple(map(Token, self._texts(), self._probabilities)), self._complete)

    def _texts(self) -> Sequence[str]:
        """Spell each token; a character spread over several tokens belongs to the last of them."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        texts = [decoder.decode(self._grammars.spell(token)) for token in self._ids]
        if texts:
            texts[-1] += decoder.decode(b"", final=True)
        return texts
