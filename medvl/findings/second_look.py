"""What the answer to a closed question says of a finding: the probability of yes against no, and a verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from medvl.findings.probability import TokenMap
from medvl.findings.schema import ANSWERS, OBSERVATION_CHARACTERS
from medvl.records import Finding, SecondLook, Token
from medvl.text import clean_text

Verdict = Literal["confirmed", "unconfirmed", "contradicted"]

# On both sides of what an undecided reader says (0.5), with the odds of 9 to 1 that it takes to speak against a
# finding or for it. Against: the reader has reported the finding itself, so that little doubt must not undo it.
CONFIRMED_FROM = 0.9
CONTRADICTED_TO = 0.1
_ANSWER = re.compile(r"\{\s*\"answer\"\s*:\s*\"(yes|no)\"\s*\}")
_AROUND = " .,;:!?\"'。，；：！？、“”‘’"  # marks that would end or quote the question's sentence


def name_in_question(observation: str) -> str:
    """Return an observation as it may stand in the middle of a question: one bounded line without closing marks."""
    return clean_text(observation, OBSERVATION_CHARACTERS).strip(_AROUND)


def parse_look(text: str, tokens: Sequence[Token]) -> SecondLook | None:
    """Parse the answer to a closed question; None if it is none, or without the probabilities of its tokens.

    Any text is accepted; none raises. The probability is that of yes, among yes and no.
    """
    answer = _ANSWER.fullmatch(text.strip())
    if answer is None:
        return None
    # Whatever the tokenizer joins with the word is forced by the grammar, and counts 1.
    shift = len(text) - len(text.lstrip())
    said = TokenMap(text, tokens).probability_of(answer.start(1) + shift, answer.end(1) + shift)
    if said is None:
        return None
    probability = said if answer[1] == ANSWERS[0] else 1 - said
    return SecondLook(_verdict(probability), round(probability, 4))


def is_contradicted(finding: Finding) -> bool:
    """Tell whether the second look spoke against a finding."""
    return finding.second_look is not None and finding.second_look.verdict == "contradicted"


def _verdict(probability: float) -> Verdict:
    if probability >= CONFIRMED_FROM:
        return "confirmed"
    return "contradicted" if probability <= CONTRADICTED_TO else "unconfirmed"
