from __future__ import annotations

import numpy as np
import pytest
import torch

from medvl.reader.engine.choice import choose_tokens
from medvl.reader.identity import Sampling

HOT = Sampling(temperature=1.0, top_p=0.8, top_k=3)
SCORES = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()


def mask_of(*allowed: int) -> torch.Tensor:
    return torch.tensor([[sum(1 << token for token in allowed)]], dtype=torch.int32)


def draw(chance: float, *allowed: int, sampling: Sampling = HOT) -> tuple[int, float]:
    token, probability = choose_tokens(SCORES[None], mask_of(*allowed), torch.tensor([chance]), sampling)
    return int(token), float(probability)


def test_the_likeliest_allowed_token_is_chosen_without_temperature() -> None:
    token, probability = draw(0.99, 1, 3, sampling=Sampling())
    assert token == 1
    assert probability == pytest.approx(0.75)  # 0.3 of 0.3 + 0.1


@pytest.mark.parametrize(("chance", "token"), [(0.0, 0), (0.44, 0), (0.45, 1), (0.77, 1), (0.78, 2), (0.9999, 2)])
def test_draws_follow_the_probabilities_of_the_three_likeliest(chance: float, token: int) -> None:
    # 0.4, 0.3, 0.2 of 0.9: the third begins at 0.778 < top_p, so it stays
    assert draw(chance, 0, 1, 2, 3)[0] == token


def test_tokens_beyond_top_p_are_never_drawn() -> None:
    narrow = Sampling(temperature=1.0, top_p=0.4, top_k=3)
    assert {draw(float(chance), 0, 1, 2, 3, sampling=narrow)[0] for chance in np.linspace(0, 0.999, 50)} == {0}


def test_forbidden_tokens_are_never_drawn() -> None:
    assert {draw(float(chance), 2, 3)[0] for chance in np.linspace(0, 0.999, 50)} == {2, 3}


def test_a_drawn_token_keeps_its_own_probability_among_the_allowed() -> None:
    cold = Sampling(temperature=0.5, top_p=1.0, top_k=3)
    assert draw(0.0, 0, 3, sampling=cold) == (0, pytest.approx(0.8))


def test_slots_are_chosen_for_one_by_one() -> None:
    logits = torch.stack([SCORES, SCORES.flip(0)])
    mask = torch.cat([mask_of(0, 1), mask_of(0, 1, 2)])
    tokens, probabilities = choose_tokens(logits, mask, torch.zeros(2), Sampling())
    assert tokens.tolist() == [0, 2]
    assert probabilities.tolist() == pytest.approx([4 / 7, 0.5])
