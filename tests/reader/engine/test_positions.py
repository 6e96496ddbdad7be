from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from medvl.reader.engine.positions import prompt_positions
from medvl.reader.weights import ModelLocation


def test_a_picture_spreads_over_rows_and_columns_and_then_counts_as_its_longer_side() -> None:
    is_picture = np.array([False, True, True, True, True, True, True, False, False])
    assert prompt_positions(is_picture, [(2, 3)]).tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 4, 5],
        [0, 1, 1, 1, 2, 2, 2, 4, 5],
        [0, 1, 2, 3, 1, 2, 3, 4, 5],
    ]


@pytest.mark.parametrize("grids", [[], [(2, 2)], [(2, 4), (4, 2), (3, 3)]])
def test_positions_are_those_of_the_stock_model(tiny: ModelLocation, grids: list[tuple[int, int]]) -> None:
    model = Qwen3VLForConditionalGeneration.from_pretrained(tiny.folder)
    pad = model.config.image_token_id
    ids = [300, 301, 302]
    for rows, columns in grids:
        ids += [model.config.vision_start_token_id, *[pad] * (rows * columns), model.config.vision_end_token_id, 303]
    is_picture = torch.tensor([ids]) == pad
    sizes = torch.tensor([(1, 2 * rows, 2 * columns) for rows, columns in grids]).reshape(-1, 3)
    stock, _ = model.model.get_rope_index(
        torch.tensor([ids]), is_picture.int(), image_grid_thw=sizes if grids else None
    )
    assert prompt_positions(is_picture[0].numpy(), grids).tolist() == stock[:, 0].tolist()
