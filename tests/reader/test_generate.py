from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from medvl.reader.generate import BatchReplies
from medvl.reader.grammar import Grammars
from medvl.reader.replies import Reply
from medvl.records import Request

VOCAB = 3072
YES_OR_NO = '{"enum": ["yes", "no"]}'


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, VOCAB, tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))


def write(replies: BatchReplies, *rows: list[int]) -> None:
    """Choose these tokens step by step, from scores that are equal for every token."""
    for chosen in zip(*rows, strict=True):
        replies.mask(torch.zeros(len(rows), VOCAB))
        replies.record(torch.tensor(chosen))


def finish(replies: BatchReplies) -> list[Reply]:
    return [draft.finish() for draft in replies.drafts]


def test_a_token_among_two_equally_likely_ones_has_probability_one_half(grammars: Grammars, tokenizer: Any) -> None:
    quote, rest, yes = (tokenizer(text)["input_ids"][0] for text in ('"', "none", "y"))
    scores = torch.full((1, VOCAB), -50.0)
    scores[0, quote] = 1.0
    scores[0, rest] = 30.0  # likelier by far, but not allowed here
    scores[0, tokenizer(' "')["input_ids"][0]] = 1.0  # neither is this one
    replies = BatchReplies(grammars, [Request((), YES_OR_NO, 5)])
    replies.mask(scores)
    replies.record(torch.tensor([quote]))
    replies.mask(torch.full((1, VOCAB), -50.0).index_fill(1, torch.tensor([yes, tokenizer("n")["input_ids"][0]]), 2.0))
    replies.record(torch.tensor([yes]))
    (reply,) = finish(replies)
    assert [token.text for token in reply.tokens] == ['"', "y"]
    assert [token.probability for token in reply.tokens] == pytest.approx([1.0, 0.5], abs=1e-6)


def test_the_masked_scores_leave_nothing_but_the_allowed_tokens(grammars: Grammars) -> None:
    replies = BatchReplies(grammars, [Request((), YES_OR_NO, 5)])
    masked = replies.mask(torch.zeros(1, VOCAB))
    kept = {grammars.spell(int(token)) for token in masked.isfinite().nonzero()[:, 1]}
    assert all(b'"yes"'.startswith(text) or b'"no"'.startswith(text) for text in kept)


def test_a_row_that_ended_takes_no_further_tokens(grammars: Grammars, tokenizer: Any) -> None:
    text = tokenizer('"no"')["input_ids"]
    end = grammars.end_ids[0]
    replies = BatchReplies(grammars, [Request((), None, 9), Request((), YES_OR_NO, 9)])
    free = [text[0], end, *[text[0]] * (len(text) - 2)]
    write(replies, free, text)
    first, second = finish(replies)
    assert (first.text, first.complete) == ('"', True)
    assert (second.text, second.complete) == ('"no"', True)
    assert [draft.ended for draft in replies.drafts] == [True, True]


def test_a_character_spread_over_tokens_belongs_to_the_last_of_them(grammars: Grammars, tokenizer: Any) -> None:
    ids = tokenizer("𠀀")["input_ids"]  # outside every prompt: one token a byte
    replies = BatchReplies(grammars, [Request((), None, 9)])
    write(replies, ids)
    (reply,) = finish(replies)
    assert [token.text for token in reply.tokens] == ["", "", "", "𠀀"]


def test_a_character_cut_by_the_cap_is_marked_not_lost(grammars: Grammars, tokenizer: Any) -> None:
    ids = tokenizer("a𠀀")["input_ids"][:3]
    replies = BatchReplies(grammars, [Request((), None, 3)])
    write(replies, ids)
    (reply,) = finish(replies)
    assert reply.text == "a\ufffd"
    assert not reply.complete


def test_recording_before_masking_is_a_bug(grammars: Grammars) -> None:
    with pytest.raises(ValueError, match="before anything was masked"):
        BatchReplies(grammars, [Request((), None, 3)]).record(torch.tensor([1]))
