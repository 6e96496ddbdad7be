"""The whole engine on a card, against stock transformers. Needs no other fixtures: run it with --noconftest."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from medvl.reader.chat import ChatForm
from medvl.reader.engine.loop import Engine
from medvl.reader.engine.pictures import PictureCache
from medvl.reader.engine.positions import prompt_positions
from medvl.reader.engine.prompts import PromptWriter
from medvl.reader.engine.text import Prompt, TextModel
from medvl.reader.engine.vision import VisionEncoder
from medvl.reader.grammar import Grammars
from medvl.reader.identity import Sampling
from medvl.reader.stock import StockWriter
from medvl.reader.tiny import TINY_SHAPE, build_tiny_checkpoint, example_replies
from medvl.records import Reading, Request
from tests.reader.requests import make_request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
REQUESTS = [make_request(number % 4, size_px=64 + 32 * (number % 3), seed=number, cap=90) for number in range(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny_checkpoint(folder, corpus=example_replies())
    return folder


def load(folder: Path, dtype: torch.dtype) -> Any:
    return Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=dtype).cuda().eval()


def quantise(model: Any) -> None:
    """Turn the text model's Linear layers into bitsandbytes' int8."""
    import bitsandbytes as bnb

    for name, layer in list(model.model.language_model.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            new = bnb.nn.Linear8bitLt(layer.in_features, layer.out_features, bias=False, has_fp16_weights=False)
            new.weight = bnb.nn.Int8Params(layer.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
            parent, _, leaf = name.rpartition(".")
            setattr(model.model.language_model.get_submodule(parent), leaf, new.cuda())


def parts(model: Any, folder: Path) -> tuple[ChatForm, Grammars]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    return ChatForm(tokenizer), Grammars(tokenizer, TINY_SHAPE.vocab, ends)


def engine_of(model: Any, folder: Path) -> Engine:
    chat, grammars = parts(model, folder)
    cache = PictureCache(device_bytes=1 << 20, host_bytes=1 << 20)
    encoder = VisionEncoder(model.model.visual, TINY_SHAPE, cache=cache, pixels_at_once=3 * 96 * 96)
    prompts = PromptWriter(chat, TINY_SHAPE, encoder, model.device)
    return Engine(TextModel(model), encoder, prompts, grammars, Sampling())


def answers(writer: Any, requests: list[Request], rows: int) -> list[Reading]:
    return [reading for _, reading in sorted(writer.write(requests, rows), key=lambda pair: pair[0])]


def test_replies_are_those_of_stock_generate(folder: Path) -> None:
    model = load(folder, torch.float32)
    chat, grammars = parts(model, folder)
    expected = answers(StockWriter(model, chat, TINY_SHAPE, grammars, Sampling()), REQUESTS, 1)
    found = answers(engine_of(copy.deepcopy(model), folder), REQUESTS, 4)
    assert [reading.text for reading in found] == [reading.text for reading in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert [t.probability for t in ours.tokens] == pytest.approx([t.probability for t in theirs.tokens], abs=2e-3)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_a_reply_does_not_depend_on_what_is_written_beside_it(folder: Path, kind: str) -> None:
    model = load(folder, torch.bfloat16)
    if kind == "int8":
        quantise(model)
    engine = engine_of(model, folder)
    together = answers(engine, REQUESTS, 5)
    alone = [answers(engine, [request], 5)[0] for request in reversed(REQUESTS)][::-1]
    assert [reading.tokens for reading in together] == [reading.tokens for reading in alone]


@pytest.mark.parametrize("rows", [1, 2, 7, 16, 30, 32])
def test_steps_are_within_bf16_noise_of_float32_over_the_same_int8_weights(folder: Path, rows: int) -> None:
    quick, exact = load(folder, torch.bfloat16), load(folder, torch.float32)
    quantise(quick)
    exact.load_state_dict({name: value.float() for name, value in dense_state(quick).items()})
    ours = TextModel(quick)
    random = np.random.default_rng(rows)
    slots = ours.empty_slots(rows, 300)
    prompts = [random.integers(300, 2000, random.integers(1, 290)) for _ in range(rows)]
    follow = torch.from_numpy(random.integers(300, 2000, rows)).cuda()
    none = np.zeros(0, dtype=bool)
    with torch.inference_mode():
        for slot, ids in enumerate(prompts):
            positions = torch.from_numpy(prompt_positions(np.zeros(len(ids), bool) if len(ids) else none, [])).cuda()
            ours.prefill(Prompt(torch.from_numpy(ids).cuda(), positions), slots, slot)
        lengths = torch.tensor([len(ids) + 1 for ids in prompts], device="cuda")
        found = ours.step(follow, lengths - 1, lengths, slots)
        for row, ids in enumerate(prompts):
            whole = torch.cat([torch.from_numpy(ids).cuda(), follow[row : row + 1]])
            expected = exact(input_ids=whole[None]).logits[0, -1]
            assert float((found[row] - expected).norm() / expected.norm()) < 1e-2


def dense_state(model: Any) -> dict[str, torch.Tensor]:
    """The weights of a quantised model as plain matrices."""
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith(("SCB", "weight_format")):
            continue
        scale = model.state_dict().get(name.removesuffix("weight") + "SCB")
        state[name] = value if scale is None else value.float() * scale[:, None] / 127
    return state
