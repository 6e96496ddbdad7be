from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from medvl.reader.grammar import Grammars
from medvl.reader.tiny import SPECIAL_TOKENS

CPU = torch.device("cpu")
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


def spelled(grammars: Grammars, mask: torch.Tensor) -> set[bytes]:
    return {grammars.spell(int(token)) for token in mask.nonzero()[:, 0]}


def test_only_what_the_schema_allows_may_come_next(grammars: Grammars) -> None:
    batch = grammars.start([YES_OR_NO])
    first = spelled(grammars, batch.allowed([0], CPU)[0])
    assert first
    assert all(b'"yes"'.startswith(text) or b'"no"'.startswith(text) for text in first)


def test_a_reply_may_end_only_when_it_is_whole(grammars: Grammars, tokenizer: Any, ends: list[int]) -> None:
    batch = grammars.start([YES_OR_NO])
    for token in tokenizer('"no"')["input_ids"]:
        assert not batch.allowed([0], CPU)[0, ends].any()
        assert not batch.finished(0)
        batch.advance(0, token)
    assert batch.allowed([0], CPU)[0].nonzero()[:, 0].tolist() == sorted(ends)
    assert batch.finished(0)


def test_rows_of_one_schema_go_their_own_way(grammars: Grammars, tokenizer: Any) -> None:
    batch = grammars.start([YES_OR_NO, YES_OR_NO])
    before = batch.allowed([0, 1], CPU).clone()
    batch.advance(0, tokenizer('"yes"')["input_ids"][0])
    after = batch.allowed([0, 1], CPU)
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])


def test_tokens_the_tokenizer_does_not_have_are_never_allowed(grammars: Grammars, tokenizer: Any) -> None:
    allowed = grammars.start(['{"type": "string"}', None]).allowed([0, 1], CPU)
    assert allowed.shape == (2, PADDED_VOCAB)
    assert not allowed[:, len(tokenizer) :].any()


def test_free_text_is_any_token_but_markup(grammars: Grammars, tokenizer: Any, ends: list[int]) -> None:
    batch = grammars.start([None])
    allowed = batch.allowed([0], CPU)[0]
    markup = set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))) - set(ends)
    assert allowed.sum() == len(tokenizer) - len(markup) - 1  # byte 255, which no UTF-8 text holds
    assert not allowed[sorted(markup)].any()
    assert not batch.finished(0)


def test_a_schema_that_cannot_be_compiled_is_a_bug(grammars: Grammars) -> None:
    with pytest.raises(ValueError, match=r"cannot be compiled.*nonsense"):
        grammars.start(['{"type": "nonsense"}'])


def test_tokens_spell_the_bytes_of_a_character_they_share(grammars: Grammars, tokenizer: Any) -> None:
    ids = tokenizer("a 结")["input_ids"]
    assert b"".join(grammars.spell(token) for token in ids) == "a 结".encode()
