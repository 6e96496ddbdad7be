"""Chooses the next token of every slot from masked logits: the likeliest, or a draw as Qwen recommends."""

from __future__ import annotations

import torch
from torch import Tensor

from medvl.reader.engine.ops import choose
from medvl.reader.identity import Sampling
from medvl.reader.masks import unpack_mask


def choose_tokens(logits: Tensor, mask: Tensor, chance: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return each slot's next token and its probability among the allowed ones.

    logits: (slots, vocab) float32; mask: (slots, words) int32 bits; chance: (slots,) uniform in [0, 1), for draws.
    A slot whose mask is empty gets some token, with no meaning.
    """
    if sampling.greedy:
        return choose(logits, mask)
    masked = logits.masked_fill(~unpack_mask(mask, logits.shape[1]), -torch.inf)
    token = _draw(masked / sampling.temperature, chance, sampling)
    return token, masked.softmax(-1).gather(1, token[:, None])[:, 0]


def _draw(scores: Tensor, chance: Tensor, sampling: Sampling) -> Tensor:
    """Draw from the `top_k` likeliest, of these from the fewest that hold `top_p` of the probability."""
    best, token = scores.topk(min(sampling.top_k, scores.shape[1]), dim=1)
    share = best.softmax(-1)
    before = share.cumsum(-1) - share
    share = share.masked_fill(before >= sampling.top_p, 0.0)
    ends = share.cumsum(-1)
    place = (ends <= chance[:, None] * ends[:, -1:]).sum(-1).clamp(max=best.shape[1] - 1)
    return token.gather(1, place[:, None])[:, 0]
