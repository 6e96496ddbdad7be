from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from medvl.prompts import PromptText
from medvl.reader.patches import cut_patches
from medvl.reader.tiny import make_config
from training.network import Network
from training.rows import Layout, RowWriter, stack_rows
from training.settings import TrainingSettings
from training.train import patch_rows
from training.wording import Question

LAYOUT = Layout(slots=2, grid=4, length=160, reply=12)


@pytest.fixture(scope="module")
def model(settings: TrainingSettings, tokenizer: Any) -> Any:
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(make_config(settings.shape, tokenizer, rope_theta=1e5)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():  # make biases, norms and the table of places matter
            weight.add_(torch.randn_like(weight) * (0.3 if "pos_embed" in name else 0.05))
    return model


def question(labels: tuple[str, ...]) -> Question:
    return Question(PromptText("Look at these.", labels, "What is it?"), [('{"findings": [', 1.0), ("]}", 4.0)])


@pytest.fixture(scope="module")
def arrays(tokenizer: Any) -> dict[str, np.ndarray]:
    writer = RowWriter(tokenizer)
    rows = [writer.write(question(labels), LAYOUT) for labels in (("SLICE 1", "SLICE 2 (z = 3.0 mm)"), ("SLICE 1",))]
    return stack_rows([row for row in rows if row is not None])


def grey() -> torch.Tensor:
    return torch.randint(0, 256, (2, 2, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_the_fast_forward_gives_the_logits_of_the_stock_one(
    model: Any, arrays: dict[str, np.ndarray], settings: TrainingSettings, tokenizer: Any
) -> None:
    rows = {name: torch.from_numpy(values) for name, values in arrays.items()}
    network, pictures = Network(model, torch.float32, eager=True), grey()
    with torch.no_grad():
        seen = network.see(patch_rows(pictures), 8)
        read = network.read(rows["ids"], rows["positions"], rows["pictures"], seen, rows["read_at"])
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for number, used in ((0, 2), (1, 1)):
        ids = rows["ids"][number : number + 1]
        with torch.no_grad():
            stock = model(
                input_ids=ids,
                mm_token_type_ids=(ids == pad).int(),
                pixel_values=cut_patches(pictures[number, :used], settings.shape),
                image_grid_thw=torch.tensor([[1, 8, 8]] * used),
            ).logits[0, rows["read_at"][number]]
        asked = arrays["weights"][number] > 0
        assert asked.sum() >= 4
        torch.testing.assert_close(read.logits[number][asked], stock[asked], atol=2e-5, rtol=1e-4)


def test_positions_are_those_of_the_stock_model(model: Any, arrays: dict[str, np.ndarray], tokenizer: Any) -> None:
    ids = torch.from_numpy(arrays["ids"])
    kinds = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    positions, _ = model.model.get_rope_index(ids, kinds, torch.tensor([[1, 8, 8]] * 3))
    assert np.array_equal(arrays["positions"], positions.numpy())


def test_patch_rows_are_one_colour_and_frame_of_the_readers_patches(settings: TrainingSettings) -> None:
    ours = patch_rows(grey()).flatten(0, 1)
    theirs = cut_patches(grey().flatten(0, 1), settings.shape).view(-1, 3, 2, 256)
    torch.testing.assert_close(ours[:, None, None].expand_as(theirs), theirs)
