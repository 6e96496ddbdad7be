from __future__ import annotations

import numpy as np
import pytest
import torch

from medvl.planning.shape import PUBLISHED_SHAPES
from medvl.reader.patches import cut_cells, cut_patches, patch_grid

SHAPE = PUBLISHED_SHAPES["Qwen/Qwen3-VL-8B-Instruct"]


@pytest.mark.parametrize("size", [(2, 64, 64), (1, 96, 160), (2, 64, 96, 3)])
def test_patches_equal_the_stock_image_processor(size: tuple[int, ...]) -> None:
    stock = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    pictures = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    processor = stock.Qwen2VLImageProcessorPil(
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 1024, "longest_edge": 1 << 24},  # no resizing at these sizes
    )
    colours = pictures if pictures.ndim == 4 else np.repeat(pictures[..., None], 3, axis=-1)
    expected = processor(images=list(colours), return_tensors="pt", input_data_format="channels_last")
    ours = cut_patches(torch.from_numpy(pictures), SHAPE)
    assert ours.shape == expected["pixel_values"].shape
    assert (ours - expected["pixel_values"]).abs().max() < 1 / 255
    assert [list(patch_grid(*size[1:3], SHAPE))] * size[0] == expected["image_grid_thw"].tolist()


def test_patches_come_in_groups_of_two_by_two() -> None:
    picture = torch.zeros(64, 64, dtype=torch.uint8)
    for row in range(4):
        for column in range(4):
            picture[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = row * 4 + column
    first_values = cut_patches(picture[None], SHAPE)[:, 0]
    numbers = ((first_values * 0.5 + 0.5) * 255).round().int().tolist()
    assert numbers == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_black_is_minus_one_and_white_is_one() -> None:
    picture = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(16).repeat(32, 1)
    assert cut_patches(picture[None], SHAPE)[:2].unique(dim=1).tolist() == [[-1.0], [1.0]]


def test_a_grey_picture_fills_three_colours_and_two_frames_alike() -> None:
    picture = torch.arange(1024, dtype=torch.int32).remainder(256).to(torch.uint8).reshape(1, 32, 32)
    patch = cut_patches(picture, SHAPE)[0].reshape(6, 256)
    assert torch.equal(patch, patch[:1].expand(6, 256))


def test_patches_come_in_the_number_type_asked_for() -> None:
    picture = torch.full((1, 32, 32), 255, dtype=torch.uint8)
    assert cut_patches(picture, SHAPE, torch.bfloat16).dtype == torch.bfloat16


def test_cells_repeat_neither_the_colours_of_a_grey_picture_nor_the_frames() -> None:
    picture = torch.arange(2048, dtype=torch.int32).remainder(251).to(torch.uint8).reshape(1, 32, 64)
    cells = cut_cells(picture, SHAPE)
    assert cells.shape == (1, 8, 1, 16, 16)
    assert torch.equal(cells.flatten(2)[0], cut_patches(picture, SHAPE)[:, :256])
