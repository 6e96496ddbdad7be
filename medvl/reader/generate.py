"""Writes the replies of one batch: mask, choose, remember, until every reply has ended.

The loop is transformers' `generate`; what is ours rides in it as a logits processor (the mask) and a stopping criterion
(the record). Knows nothing of pictures, prompts and checkpoints.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from medvl.reader.grammar import BatchGrammar, Grammars
from medvl.reader.identity import Sampling
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


class BatchReplies:
    """The replies of a batch as they grow: ids, probabilities, and which rows have ended."""

    def __init__(self, grammars: Grammars, requests: Sequence[Request]) -> None:
        self._grammars = grammars
        self._grammar: BatchGrammar = grammars.start(request.json_schema for request in requests)
        self._caps = [request.max_new_tokens for request in requests]
        self._ids: list[list[int]] = [[] for _ in requests]
        self._probabilities: list[list[float]] = [[] for _ in requests]
        self._complete = [False] * len(requests)
        self.ended = [False] * len(requests)
        self._masked: Tensor | None = None

    def mask(self, scores: Tensor) -> Tensor:
        """Return scores with −∞ wherever the grammar forbids the token, and keep them for `record`.

        scores: (rows, vocab) float32.
        """
        writing = [row for row, ended in enumerate(self.ended) if not ended]
        self._masked = scores.masked_fill(~self._grammar.allowed(writing, scores.device), -torch.inf)
        return self._masked

    def record(self, chosen: Tensor) -> None:
        """Take note of the token chosen for each row and its probability among those that were allowed.

        chosen: (rows,) token ids; those of ended rows are ignored.
        """
        if self._masked is None:
            raise ValueError("a token was chosen before anything was masked")
        probabilities = self._masked.softmax(-1).gather(1, chosen[:, None])[:, 0]
        for row, (token, probability) in enumerate(zip(chosen.tolist(), probabilities.tolist(), strict=True)):
            if not self.ended[row]:
                self._append(row, token, probability)

    def _append(self, row: int, token: int, probability: float) -> None:
        if token in self._grammars.end_ids:
            self._complete[row] = self.ended[row] = True
            return
        self._ids[row].append(token)
        # Rounding may leave (0, 1]: a certain token a hair above 1, a token sampled at high temperature below float32.
        self._probabilities[row].append(min(max(probability, torch.finfo(torch.float32).tiny), 1.0))
        self._grammar.advance(row, token)
        self._complete[row] = self._grammar.finished(row)
        self.ended[row] = self._complete[row] or len(self._ids[row]) >= self._caps[row]

    def finish(self) -> list[Reply]:
        """Return the replies as they stand."""
        return [
            Reply(tuple(map(Token, self._texts(ids), probabilities)), complete)
            for ids, probabilities, complete in zip(self._ids, self._probabilities, self._complete, strict=True)
        ]

    def _texts(self, ids: Sequence[int]) -> list[str]:
        """Spell each token; a character spread over several tokens belongs to the last of them."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        texts = [decoder.decode(self._grammars.spell(token)) for token in ids]
        if texts:
            texts[-1] += decoder.decode(b"", final=True)
        return texts


class _Mask(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    def __init__(self, replies: BatchReplies) -> None:
        self._replies = replies

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self._replies.mask(scores)


class _Record(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped
    def __init__(self, replies: BatchReplies) -> None:
        self._replies = replies

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self._replies.record(input_ids[:, -1])
        return torch.tensor(self._replies.ended, device=input_ids.device)


@torch.inference_mode()
def write_replies(
    model: Any, inputs: Mapping[str, Tensor], requests: Sequence[Request], grammars: Grammars, sampling: Sampling
) -> list[Reply]:
    """Let the model answer a left-padded batch.

    inputs: what the model's forward takes, on its device; row i belongs to request i.
    Greedy at temperature 0. Otherwise seeded anew for each batch, so that equal batches get equal replies.
    """
    replies = BatchReplies(grammars, requests)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(sampling.seed)
        model.generate(
            **inputs,
            generation_config=_generation_config(requests, grammars, sampling),
            logits_processor=LogitsProcessorList([_Mask(replies)]),
            stopping_criteria=StoppingCriteriaList([_Record(replies)]),
        )
    return replies.finish()


def _generation_config(requests: Sequence[Request], grammars: Grammars, sampling: Sampling) -> GenerationConfig:
    longest = max(request.max_new_tokens for request in requests)
    common = {"max_new_tokens": longest, "eos_token_id": list(grammars.end_ids), "pad_token_id": grammars.end_ids[0]}
    if sampling.greedy:
        return GenerationConfig(do_sample=False, **common)
    chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return GenerationConfig(do_sample=True, **chosen, **common)
