"""Writes the replies of one batch with the stock loop: mask, choose, remember, until every reply has ended.

The loop is transformers' `generate`; what is ours rides in it as a logits processor (the mask) and a stopping criterion
(the record). Knows nothing of pictures, prompts and checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from medvl.reader.grammar import Grammars
from medvl.reader.identity import Sampling
from medvl.reader.masks import unpack_mask
from medvl.reader.replies import Draft, Reply
from medvl.records import Request


class BatchReplies:
    """The replies of a batch that grows in step."""

    def __init__(self, grammars: Grammars, requests: Sequence[Request]) -> None:
        self.drafts = [Draft(grammars, request) for request in requests]
        self._grammars = grammars
        self._mask = grammars.new_mask(len(self.drafts))
        self._masked: Tensor | None = None

    def mask(self, scores: Tensor) -> Tensor:
        """Return scores with −∞ wherever the grammar forbids the token, and keep them for `record`.

        scores: (rows, vocab) float32.
        """
        self._grammars.fill(self._mask, [(row, draft.grammar) for row, draft in self._writing()])
        packed = torch.from_numpy(self._mask).to(scores.device)
        self._masked = scores.masked_fill(~unpack_mask(packed, scores.shape[1]), -torch.inf)
        return self._masked

    def record(self, chosen: Tensor) -> None:
        """Take note of the token chosen for each row and its probability among those that were allowed.

        chosen: (rows,) token ids; those of ended rows are ignored.
        """
        if self._masked is None:
            raise ValueError("a token was chosen before anything was masked")
        probabilities = self._masked.softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()
        tokens = chosen.tolist()
        for row, draft in self._writing():
            draft.append(tokens[row], probabilities[row])

    def _writing(self) -> list[tuple[int, Draft]]:
        return [(row, draft) for row, draft in enumerate(self.drafts) if not draft.ended]


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
        return torch.tensor([draft.ended for draft in self._replies.drafts], device=input_ids.device)


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
    return [draft.finish() for draft in replies.drafts]


def _generation_config(requests: Sequence[Request], grammars: Grammars, sampling: Sampling) -> GenerationConfig:
    longest = max(request.max_new_tokens for request in requests)
    common = {"max_new_tokens": longest, "eos_token_id": list(grammars.end_ids), "pad_token_id": grammars.end_ids[0]}
    if sampling.greedy:
        return GenerationConfig(do_sample=False, **common)
    chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return GenerationConfig(do_sample=True, **chosen, **common)
