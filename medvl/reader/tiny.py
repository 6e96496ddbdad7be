"""Builds small Qwen3-VL checkpoints from nothing: our own tokenizer, random weights, ordinary files.

The tests read with one of these, through the very code that reads with the real model. The parts
(tokenizer, configuration, writing) are separate so that a trained checkpoint can be made with them too.
Knows nothing of training and of what the model is asked.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from medvl.bundled import bundled_path
from medvl.planning.shape import ModelShape
from medvl.reader.quiet import quiet_libraries

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Turns and pictures as Qwen3-VL's model card describes them, for messages with text and image content.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
  {{- '<|im_start|>' + message.role + '\\n' -}}
  {%- if message.content is string -%}
    {{- message.content -}}
  {%- else -%}
    {%- for part in message.content -%}
      {{- '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text -}}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

TINY_SHAPE = ModelShape(
    hidden=128,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=64,
    mlp=384,
    vocab=3072,
    tied=True,
    vision_hidden=128,
    vision_layers=4,
    vision_heads=2,
    vision_mlp=256,
    deepstack=(1, 2),
    vision_positions=1024,
)

TINY_PREFERENCES: dict[str, Any] = {
    "size_px": 256,
    "chunk": "6",
    "warning": "random weights: findings are meaningless",
}


def build_tiny_checkpoint(folder: Path, seed: int = 0, corpus: Iterable[str] | None = None) -> None:
    """Write a tiny Qwen3-VL with random weights as an ordinary checkpoint folder, in seconds.

    folder must not exist yet; it appears complete or not at all. Equal seeds and corpora give equal files.
    corpus: what the tokenizer learns from; the prompts shipped with medvl and example replies unless given.
    """
    words = tiny_corpus() if corpus is None else corpus
    tokenizer = train_tokenizer(words, TINY_SHAPE.vocab - 40)  # a padded vocabulary, as the real one has
    config = make_config(TINY_SHAPE, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config)
    write_checkpoint(folder, model, tokenizer, TINY_PREFERENCES)


def tiny_corpus() -> Iterator[str]:
    """Yield the prompts shipped with medvl and replies in their form: what the tokenizer should be short for."""
    for path in sorted(bundled_path("prompts").glob("*.md")):
        yield path.read_text(encoding="utf-8")
    yield from example_replies()


def example_replies() -> Iterator[str]:
    """Yield replies to a reading prompt, every choice of words once."""
    sides = ("left", "right", "midline", "bilateral", "none")
    certainties = ("definite", "probable", "possible")
    sites = ("upper lobe", "lower lobe", "liver segment 7", "kidney", "frontal lobe", "pleural space", "hilum")
    kinds = ("solid nodule", "ground-glass opacity", "cyst", "mass", "pleural effusion", "haemorrhage", "fracture")
    for number, words in enumerate(itertools.product(sides, certainties, sites, kinds)):
        side, certainty, site, kind = words
        finding = {
            "slice": number % 16 + 1,
            "bbox_2d": [number * 7 % 900, number * 11 % 900, number * 7 % 900 + 60, number * 11 % 900 + 80],
            "first_slice": number % 16 + 1,
            "last_slice": number % 16 + 2,
            "observation": kind,
            "site": site,
            "side": side,
            "certainty": certainty,
            "description": f"Well-defined {kind} in the {side} {site}, {certainty} on these slices.",
        }
        yield json.dumps({"findings": [finding] * (number % 3)}, ensure_ascii=False)


def train_tokenizer(corpus: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with Qwen's special tokens and chat form; digits stay single, as in Qwen's.

    vocab: tokens at most, the special ones and the 256 bytes included.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def make_config(shape: ModelShape, tokenizer: PreTrainedTokenizerFast, *, rope_theta: float = 5e6) -> Qwen3VLConfig:
    """Describe a Qwen3-VL of this shape to transformers.

    The rotary sections (time, height, width) split half a head as 24/20/20 does for the published 128.
    """
    token = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    side = shape.head_dim // 2 * 5 // 16
    sections = [shape.head_dim // 2 - 2 * side, side, side]
    rope = {"rope_type": "default", "rope_theta": rope_theta, "mrope_section": sections, "mrope_interleaved": True}
    return Qwen3VLConfig(
        architectures=["Qwen3VLForConditionalGeneration"],
        text_config=_text_config(shape) | {"rope_parameters": rope},
        vision_config=_vision_config(shape),
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=shape.tied,
    )


def _text_config(shape: ModelShape) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": shape.tied,
    }


def _vision_config(shape: ModelShape) -> dict[str, Any]:
    return {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.vision_mlp,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.hidden,
        "num_position_embeddings": shape.vision_positions,
        "deepstack_visual_indexes": list(shape.deepstack),
        "patch_size": shape.patch_px,
        "spatial_merge_size": shape.merge,
        "temporal_patch_size": shape.temporal,
    }


def write_checkpoint(
    folder: Path,
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    preferences: dict[str, Any],
) -> None:
    """Write model (as bfloat16), tokenizer and preferences as a folder plain transformers loads.

    The folder is written beside its place and renamed; if another process was first, its result stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        draft = Path(beside) / folder.name
        model.generation_config = _generation_config(tokenizer)
        with quiet_libraries():
            model.to(torch.bfloat16).save_pretrained(draft, max_shard_size="15MB")
        tokenizer.save_pretrained(draft)
        _write_json(draft / "preprocessor_config.json", _preprocessor_config(model.config))
        _write_json(draft / "medvl.json", preferences)
        try:
            draft.rename(folder)
        except OSError:  # another process was first, unless there is still nothing
            if not folder.exists():
                raise


def _generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    return GenerationConfig(eos_token_id=ends, pad_token_id=ends[1], do_sample=False)


def _preprocessor_config(config: Qwen3VLConfig) -> dict[str, Any]:
    vision = config.vision_config
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
