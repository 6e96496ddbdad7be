from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, Qwen3VLConfig

from medvl.reader.tiny import (
    SPECIAL_TOKENS,
    TINY_SHAPE,
    build_tiny_checkpoint,
    example_replies,
    make_config,
    tiny_corpus,
    train_tokenizer,
)


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_tiny_checkpoint(tmp_path / name, seed)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() != (tmp_path / "c" / "model.safetensors").read_bytes()


def test_the_folder_is_an_ordinary_checkpoint(tiny_folder: Path) -> None:
    assert {path.name for path in tiny_folder.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "medvl.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_folder_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_text("mine")
    build_tiny_checkpoint(tmp_path / "model", corpus=["few words"])
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["file"]


def test_digits_are_single_tokens_and_common_words_whole(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    assert tokenizer.tokenize('"bbox_2d": [120') == ['"', "bbox", "_", "2", "d", '":', "Ġ[", "1", "2", "0"]


@pytest.mark.parametrize("text", ["6 mm nodule", "肺结节", "naïve — “quoted” 𠀀\n\t", "<|im_end|"])
def test_any_text_comes_back_as_it_went_in(tiny_folder: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_are_one_id_each(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    assert [len(tokenizer(token)["input_ids"]) for token in SPECIAL_TOKENS] == [1] * len(SPECIAL_TOKENS)


def test_the_tokenizer_learns_from_the_prompts_too() -> None:
    replies_only = train_tokenizer(example_replies(), 3000)
    with_prompts = train_tokenizer(tiny_corpus(), 3000)
    assert len(with_prompts) > len(replies_only)


def test_example_replies_are_valid_json_in_one_form() -> None:
    replies = [json.loads(text)["findings"] for text in example_replies()]
    assert {len(findings) for findings in replies} == {0, 1, 2}
    assert all(0 <= edge <= 1000 for findings in replies for finding in findings for edge in finding["bbox_2d"])


def test_the_rotary_sections_fill_half_a_head(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    config: Qwen3VLConfig = make_config(TINY_SHAPE, tokenizer)
    assert config.text_config.rope_parameters["mrope_section"] == [12, 10, 10]  # 24/20/20 of the published 128, halved
