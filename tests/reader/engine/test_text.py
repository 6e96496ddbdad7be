from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from medvl.planning.shape import ModelShape
from medvl.reader.engine.positions import prompt_positions
from medvl.reader.engine.text import Prompt, TextModel, Vision
from medvl.reader.patches import cut_patches, patch_grid
from medvl.reader.tiny import TINY_SHAPE
from medvl.reader.weights import ModelLocation

GRID = (2, 3)  # vision tokens of every picture


@pytest.fixture(scope="module")
def stock(tiny: ModelLocation) -> Any:
    return Qwen3VLForConditionalGeneration.from_pretrained(tiny.folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def text(tiny: ModelLocation) -> TextModel:
    return TextModel(Qwen3VLForConditionalGeneration.from_pretrained(tiny.folder, dtype=torch.float32).eval())


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


class Sample:
    """A random prompt with pictures, for both sides."""

    def __init__(self, stock: Any, pictures: int, words: int, seed: int, shape: ModelShape = TINY_SHAPE) -> None:
        random = torch.Generator().manual_seed(seed)
        config = stock.config
        ids = torch.randint(300, 2000, (words,), generator=random).tolist()
        for _ in range(pictures):
            ids += [config.vision_start_token_id, *[config.image_token_id] * 6, config.vision_end_token_id, 301]
        self.ids = torch.tensor(ids)
        self.is_picture = self.ids == config.image_token_id
        self.grey = torch.randint(0, 256, (pictures, 64, 96), generator=random, dtype=torch.uint8)
        self.rows = cut_patches(self.grey, shape) if pictures else None
        self.sizes = torch.tensor([patch_grid(64, 96, shape)] * pictures)
        self.pictures = pictures

    def stock_inputs(self) -> dict[str, Tensor]:
        pictures = {"pixel_values": self.rows, "image_grid_thw": self.sizes} if self.pictures else {}
        return {"mm_token_type_ids": self.is_picture.int()[None], **pictures}

    def prompt(self, stock: Any) -> Prompt:
        positions = torch.from_numpy(prompt_positions(self.is_picture.numpy(), [GRID] * self.pictures))
        if not self.pictures:
            return Prompt(self.ids, positions)
        seen = stock.model.visual(self.rows, self.sizes)
        at = self.is_picture.nonzero()[:, 0]
        return Prompt(self.ids, positions, Vision(at, seen.pooler_output, torch.stack(seen.deepstack_features)))


@pytest.mark.parametrize(("pictures", "words"), [(0, 1), (0, 37), (1, 5), (3, 11)])
def test_a_prefilled_prompt_has_the_logits_of_the_stock_model(
    stock: Any, text: TextModel, pictures: int, words: int
) -> None:
    sample = Sample(stock, pictures, words, seed=words)
    expected = stock(input_ids=sample.ids[None], **sample.stock_inputs()).logits[0, -1]
    slots = text.empty_slots(3, len(sample.ids) + 5)
    torch.testing.assert_close(text.prefill(sample.prompt(stock), slots, 1), expected, rtol=1e-4, atol=1e-4)


def test_slots_of_different_lengths_step_as_the_stock_model_goes_on(stock: Any, text: TextModel) -> None:
    samples = [Sample(stock, 2, 7, seed=1), Sample(stock, 0, 3, seed=2), Sample(stock, 1, 40, seed=3)]
    slots = text.empty_slots(4, 80)
    taken = [3, 0, 2]  # slot 1 stays free
    lengths, positions, tokens = (torch.zeros(4, dtype=torch.int64) for _ in range(3))
    written: list[list[int]] = [[] for _ in samples]
    for slot, sample in zip(taken, samples, strict=True):
        prompt = sample.prompt(stock)
        tokens[slot] = int(text.prefill(prompt, slots, slot).argmax())
        lengths[slot], positions[slot] = len(prompt.ids), prompt.positions.max() + 1
    for _ in range(6):
        alive = (lengths > 0).long()
        lengths += alive
        for sample_number, slot in enumerate(taken):
            written[sample_number].append(int(tokens[slot]))
        logits = text.step(tokens, positions, lengths, slots)
        positions += alive
        tokens = logits.argmax(-1)
    for slot, sample, reply in zip(taken, samples, written, strict=True):
        whole = torch.cat([sample.ids, torch.tensor(reply)])
        types = torch.cat([sample.is_picture.int(), torch.zeros(len(reply), dtype=torch.int32)])
        expected = stock(input_ids=whole[None], **(sample.stock_inputs() | {"mm_token_type_ids": types[None]})).logits
        torch.testing.assert_close(logits[slot], expected[0, -1], rtol=1e-4, atol=1e-4)
        assert expected[0, -1 - len(reply) : -1].argmax(-1).tolist() == reply


def test_a_slot_forgets_the_reply_it_held_before(stock: Any, text: TextModel) -> None:
    long, short = Sample(stock, 3, 20, seed=4), Sample(stock, 0, 4, seed=5)
    used, fresh = text.empty_slots(1, 60), text.empty_slots(1, 60)
    text.prefill(long.prompt(stock), used, 0)
    results = []
    for slots in (used, fresh):
        first = text.prefill(short.prompt(stock), slots, 0).argmax()[None]
        length = torch.tensor([len(short.ids) + 1])
        results.append(text.step(first, length - 1, length, slots))
    assert torch.equal(results[0], results[1])
