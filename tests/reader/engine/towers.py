"""Builds vision towers with random weights, and pictures for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from medvl.planning.shape import PUBLISHED_SHAPES, ModelShape
from medvl.reader.patches import cut_patches, patch_grid

# Heads of 72, as in the large tower; a grid of 5 × 5 learned places, which pictures of 64 and 96 px must interpolate.
SMALL = replace(
    PUBLISHED_SHAPES["Qwen/Qwen3-VL-8B-Instruct"],
    hidden=48,
    vision_hidden=144,
    vision_layers=3,
    vision_heads=2,
    vision_mlp=88,
    deepstack=(0, 2),
    vision_positions=25,
)


def make_tower(shape: ModelShape, device: str = "cpu", spread: float = 0.06) -> Any:
    """Return a stock vision tower in float32, every bias and norm random as well."""
    config = Qwen3VLVisionConfig(
        depth=shape.vision_layers,
        hidden_size=shape.vision_hidden,
        intermediate_size=shape.vision_mlp,
        num_heads=shape.vision_heads,
        out_hidden_size=shape.hidden,
        num_position_embeddings=shape.vision_positions,
        deepstack_visual_indexes=list(shape.deepstack),
        patch_size=shape.patch_px,
        spatial_merge_size=shape.merge,
        temporal_patch_size=shape.temporal,
    )
    with torch.device(device):
        tower = Qwen3VLVisionModel(config).eval().requires_grad_(False)
    chance = torch.Generator(device).manual_seed(1)
    for name, weight in tower.named_parameters():
        weight.normal_(std=spread, generator=chance)
        if "norm" in name and name.endswith("weight"):
            weight.add_(1)
    return tower


def in_bf16(tower: Any) -> Any:
    """Round a tower's weights to bf16, as loading does; the rotary frequencies stay float32."""
    for weight in tower.parameters():
        weight.data = weight.data.bfloat16()
    return tower


def draw_pictures(count: int, *size: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Return different pictures of one size."""
    return list(np.random.default_rng(seed).integers(0, 256, (count, *size), dtype=np.uint8))


def encode_stock(tower: Any, shape: ModelShape, pictures: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
    """Return what the stock forward makes of each picture, one forward each: (1 + deepstack, t, hidden)."""
    return [_encode_one(tower, shape, picture) for picture in pictures]


@torch.inference_mode()
def _encode_one(tower: Any, shape: ModelShape, picture: NDArray[np.uint8]) -> Tensor:
    rows = cut_patches(torch.from_numpy(picture[None]).to(tower.device), shape, tower.dtype)
    grid = torch.tensor([patch_grid(*picture.shape[:2], shape)], device=tower.device)
    seen = tower(rows, grid)
    return torch.stack([seen.pooler_output, *seen.deepstack_features])
