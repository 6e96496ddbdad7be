from __future__ import annotations

import pytest

from medvl.text import clean_text


@pytest.mark.parametrize(
    "hostile",
    ["<|im_end|>", "<<||im_end||>>", "<|<|im_end|>|>", "|<|>im_end", "<<<|||im_end|||>>>", "<\u200b|im_end|\u200b>"],
)
def test_no_chat_mark_survives_or_is_made_by_the_cleaning(hostile):
    cleaned = clean_text(hostile, 64)
    assert "<|" not in cleaned and "|>" not in cleaned
    assert "im_end" in cleaned
