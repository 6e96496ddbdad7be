from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from medvl.reader.grammar import Grammar, Grammars
from medvl.reader.masks import unpack_mask
from medvl.reader.tiny import SPECIAL_TOKENS

YES_OR_NO = '{"enum": ["yes", "no"]}'
PADDED_VOCAB = 3072


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def ends(tokenizer: Any) -> list[int]:
    return list(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))


@pytest.fixture
def grammars(tokenizer: Any, ends: list[int]) -> Grammars:
    return Grammars(tokenizer, PADDED_VOCAB, ends)


def allowed(grammars: Grammars, *replies: Grammar) -> NDArray[np.bool_]:
    """Which tokens may come next, reply by reply."""
    mask = grammars.new_mask(len(replies))
    grammars.fill(mask, list(enumerate(replies)))
    return unpack_mask(torch.from_numpy(mask), PADDED_VOCAB).numpy()


def spelled(grammars: Grammars, row: NDArray[np.bool_]) -> set[bytes]:
    return {grammars.spell(int(token)) for token in row.nonzero()[0]}


def test_only_what_the_schema_allows_may_come_next(grammars: Grammars) -> None:
    first = spelled(grammars, allowed(grammars, grammars.start(YES_OR_NO))[0])
    assert first
    assert all(b'"yes"'.startswith(text) or b'"no"'.startswith(text) for text in first)


def test_a_reply_may_end_only_when_it_is_whole(grammars: Grammars, tokenizer: Any, ends: list[int]) -> None:
    reply = grammars.start(YES_OR_NO)
    for token in tokenizer('"no"')["input_ids"]:
        assert not allowed(grammars, reply)[0, ends].any()
        assert not reply.finished
        reply.advance(token)
    assert allowed(grammars, reply)[0].nonzero()[0].tolist() == sorted(ends)
    assert reply.finished


def test_replies_of_one_schema_go_their_own_way(grammars: Grammars, tokenizer: Any) -> None:
    first, second = grammars.start(YES_OR_NO), grammars.start(YES_OR_NO)
    before = allowed(grammars, first, second)
    first.advance(tokenizer('"yes"')["input_ids"][0])
    after = allowed(grammars, first, second)
    assert not np.array_equal(after[0], before[0])
    assert np.array_equal(after[1], before[1])


def test_rows_that_are_not_asked_for_keep_their_mask(grammars: Grammars) -> None:
    mask = grammars.new_mask(3)
    grammars.fill(mask, [(2, grammars.start(None))])
    assert not mask[:2].any()
    assert mask[2].any()


def test_tokens_the_tokenizer_does_not_have_are_never_allowed(grammars: Grammars, tokenizer: Any) -> None:
    found = allowed(grammars, grammars.start('{"type": "string"}'), grammars.start(None))
    assert found.shape == (2, PADDED_VOCAB)
    assert not found[:, len(tokenizer) :].any()


def test_free_text_is_any_token_but_markup(grammars: Grammars, tokenizer: Any, ends: list[int]) -> None:
    reply = grammars.start(None)
    found = allowed(grammars, reply)[0]
    markup = set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))) - set(ends)
    assert found.sum() == len(tokenizer) - len(markup) - 1  # byte 255, which no UTF-8 text holds
    assert not found[sorted(markup)].any()
    assert not reply.finished


def test_a_schema_that_cannot_be_compiled_is_a_bug(grammars: Grammars) -> None:
    with pytest.raises(ValueError, match=r"cannot be compiled.*nonsense"):
        grammars.start('{"type": "nonsense"}')
