"""How sure the reader was, from the probabilities of its own tokens.

Neither number is the chance that a finding is true: a model can be sure and wrong. `medvl` names them as what they
are, and calibration is measured elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, takewhile

from medvl.records import Token


class TokenMap:
    """Finds the tokens that cover a span of a reply."""

    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        """text: the reply. tokens: whose texts run together to it; where they stop doing so, nothing is known."""
        written = "".join(token.text for token in tokens)
        shift = max(written.find(text), 0)  # a reply may come stripped of what surrounds it
        pairs = zip(written[shift:], text, strict=False)
        self._known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        ends = accumulate(len(token.text) for token in tokens)
        self._spans = [
            (end - len(token.text) - shift, end - shift, token) for token, end in zip(tokens, ends, strict=True)
        ]

    def probability_of_going_on(self, after: int, brace: int) -> float | None:
        """Return how probable the entry opened at `brace` was against ending its list.

        after: where the list could have ended instead. That choice lies in whichever token covers the separator or
        the brace, as the tokenizer cuts them; the other tokens of the span are forced by the grammar and count 1.
        """
        return self.probability_of(after, brace + 1)

    def probability_of(self, start: int, end: int) -> float | None:
        """Return how probable the tokens that cover a span were together, given what stands before them."""
        covering = self._covering(start, end)
        return math.prod(token.probability for token in covering) if covering else None

    def mean_probability(self, start: int, end: int) -> float | None:
        """Return the geometric mean over the tokens that cover a span."""
        covering = self._covering(start, end)
        if not covering or min(token.probability for token in covering) <= 0:
            return None
        return math.exp(sum(math.log(token.probability) for token in covering) / len(covering))

    def _covering(self, start: int, end: int) -> list[Token]:
        if end > self._known:
            return []
        return [token for begin, stop, token in self._spans if begin < end and stop > start]
