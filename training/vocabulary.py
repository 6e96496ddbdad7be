"""Trains the demo model's tokenizer on the questions it will be asked and the replies it will give."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from transformers import PreTrainedTokenizerFast

from medvl.bundled import bundled_path
from medvl.reader.tiny import train_tokenizer
from training.cases import draw_case
from training.chunks import draw_chunk, draw_look
from training.settings import TrainingSettings
from training.wording import Question, ask_impression, ask_look, ask_reading

_PADDED = 40  # the model's vocabulary is larger than the tokenizer's, as the real one's is
_READINGS, _OTHERS = 2000, 400


def train_vocabulary(settings: TrainingSettings) -> PreTrainedTokenizerFast:
    """Train the tokenizer; equal settings give equal tokens."""
    return train_tokenizer(_corpus(settings.seed), settings.shape.vocab - _PADDED)


def _corpus(seed: int) -> Iterator[str]:
    for path in sorted(bundled_path("prompts").glob("*.md")):
        yield path.read_text(encoding="utf-8")
    rng = np.random.default_rng([seed, 1])
    cases = [draw_case(seed + number, enriched=True) for number in range(4)]
    for _ in range(_READINGS):
        yield from _texts(ask_reading(rng, draw_chunk(rng, cases, 8, aimed=0.9)))
    for number in range(_OTHERS):
        yield from _texts(ask_look(rng, draw_look(rng, cases, number % len(cases))))
        yield from _texts(ask_impression(rng))


def _texts(question: Question) -> Iterator[str]:
    text = question.text
    yield "\n".join((text.instruction, *text.labels, text.query))
    yield "".join(part for part, _ in question.reply)
