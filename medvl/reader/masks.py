"""Unpacks the grammar's bit masks on whatever device they are."""

from __future__ import annotations

import torch
from torch import Tensor


def unpack_mask(packed: Tensor, vocab: int) -> Tensor:
    """Return a bit mask (rows, words) int32, lowest bit first, as (rows, vocab) bool."""
    bits = torch.arange(32, dtype=torch.int32, device=packed.device)
    return ((packed.unsqueeze(-1) >> bits) & 1).flatten(1)[:, :vocab].bool()
