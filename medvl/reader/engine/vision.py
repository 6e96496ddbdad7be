"""Runs the vision tower over many pictures at once, and never twice over the same one.

The weights and modules are the stock model's. What is ours: grey pictures travel as bytes and are cut on the device,
positions are computed once per picture size, and the attention of a layer is one call for all pictures.
Shapes: n pictures of p patches, in 2 × 2 groups; each group becomes one of t vision tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from medvl.planning.shape import ModelShape
from medvl.reader.engine.ops import rotate_patches
from medvl.reader.engine.pictures import Encoded, PictureCache, picture_key
from medvl.reader.patches import cut_cells, patch_grid
from medvl.reader.prompting import token_grid

__all__ = ["Encoded", "VisionEncoder"]


class VisionEncoder:
    """The vision tower of a loaded model, and the pictures it has seen."""

    def __init__(self, visual: Any, shape: ModelShape, *, cache: PictureCache, pixels_at_once: int) -> None:
        """visual: the stock vision model, on its device.

        pixels_at_once: how much goes through the tower together; at least one picture does. What is fewer is filled up
        to it with black pictures: matrix products of one height always add in the same order, so that an encoding never
        depends on which pictures happened to be encoded with it. Keep it for a whole run.
        """
        self._visual, self._shape, self._cache, self._pixels_at_once = visual, shape, cache, pixels_at_once
        convolution = visual.patch_embed.proj
        self._device, self._dtype = convolution.weight.device, convolution.weight.dtype
        self._embedding, self._embedding_bias = _embedding_weights(convolution.weight), convolution.bias.float()
        self._deep_mergers = dict(
            zip(visual.deepstack_visual_indexes, visual.deepstack_merger_list, strict=True)
        )  # by the block whose output they take
        self._grids: dict[tuple[int, int, int], _Grid] = {}

    def limit(self, *, pixels_at_once: int, device_bytes: int, host_bytes: int) -> None:
        """Set other bounds, as the constructor and the cache take them, and begin anew."""
        self._pixels_at_once = pixels_at_once
        self._cache.limit(device_bytes=device_bytes, host_bytes=host_bytes)

    def forget(self) -> None:
        """Give back the memory of encoded pictures."""
        self._cache.clear()

    @torch.inference_mode()
    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Encoded]:
        """Return what the vision tower makes of each picture, in order.

        pictures: (height, width) or (height, width, 3), of any sizes that are multiples of 32.
        Everything is queued on the device's current stream; nothing waits for it. Equal pictures share their result.
        Raises ValueError for other sizes.
        """
        done: dict[str, Encoded] = {}
        waiting: defaultdict[tuple[int, ...], dict[str, NDArray[np.uint8]]] = defaultdict(dict)
        keys = [picture_key(picture) for picture in pictures]
        for key, picture in zip(keys, pictures, strict=True):
            alike = waiting[picture.shape]
            if key in done or key in alike:
                continue
            if (found := self._cache.find(key, self._device)) is not None:
                done[key] = found
                continue
            alike[key] = picture
            if len(alike) == self._count_at_once(picture):
                done |= self._encode(waiting.pop(picture.shape))
        for alike in filter(None, waiting.values()):
            done |= self._encode(alike)
        return [done[key] for key in keys]

    def _count_at_once(self, picture: NDArray[np.uint8]) -> int:
        rows, columns = token_grid(picture, self._shape)
        return max(1, self._pixels_at_once // (rows * columns * self._shape.token_px**2))

    def _encode(self, pictures: Mapping[str, NDArray[np.uint8]]) -> dict[str, Encoded]:
        """Encode equally large pictures, and keep them."""
        layers = self._run(self._send(list(pictures.values())))
        # Each into memory of its own: a picture in the cache must not hold on to its neighbours.
        done = {key: Encoded(torch.stack([layer[i] for layer in layers])) for i, key in enumerate(pictures)}
        for key, encoded in done.items():
            self._cache.keep(key, encoded)
        return done

    def _send(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Copy pictures to the device as bytes, filled up to the number that always runs together."""
        count = self._count_at_once(pictures[0])
        host = torch.zeros((count, *pictures[0].shape), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        np.stack(pictures, out=host.numpy()[: len(pictures)])
        return host.to(self._device, non_blocking=True)

    def _run(self, grey: Tensor) -> list[Tensor]:
        """Run the tower over (n, height, width[, 3]) uint8; return the tokens and each deepstack's (n, t, hidden)."""
        grid = self._grid(int(grey.shape[1]), int(grey.shape[2]))
        x = self._embed(grey, grid)
        deep = []
        for number, block in enumerate(self._visual.blocks):
            x += _attend(block.attn, block.norm1(x), grid)
            x += block.mlp(block.norm2(x))
            if number in self._deep_mergers:
                deep.append(self._deep_mergers[number](x))
        return [merged.view(len(grey), -1, merged.shape[-1]) for merged in (self._visual.merger(x), *deep)]

    def _embed(self, grey: Tensor, grid: _Grid) -> Tensor:
        """Return (n, p, width): float32 until the places are added, as a thousandth of the tower's work may be."""
        cells = cut_cells(grey, self._shape)
        embedded = F.linear(cells.flatten(2), self._embedding[cells.shape[2]], self._embedding_bias)
        return embedded.add_(grid.places).to(self._dtype)

    def _grid(self, height_px: int, width_px: int) -> _Grid:
        size = patch_grid(height_px, width_px, self._shape)
        if size not in self._grids:
            self._grids[size] = _make_grid(self._visual, size, self._device)
        return self._grids[size]


@dataclass(frozen=True, slots=True)
class _Grid:
    """What depends on a picture's size alone, in float32."""

    places: Tensor  # (p, width): learned positions, interpolated
    cosine: Tensor  # (p, d / 2), of the rotary angles
    sine: Tensor


def _make_grid(visual: Any, size: tuple[int, int, int], device: torch.device) -> _Grid:
    """Compute the positions of one picture as the stock tower does. size: patches in time, down and across."""
    grid = torch.tensor([size])  # on the host: the stock functions read sizes back
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=visual.spatial_merge_size,
    )
    places = (visual.pos_embed(indices.to(device)).float() * weights.to(device)[:, :, None]).sum(1)
    turns = get_vision_position_ids(grid, visual.spatial_merge_size).to(device)
    cosine, sine = visual.rotary_pos_emb(places, turns)
    half = cosine.shape[-1] // 2
    return _Grid(places, cosine[:, :half].contiguous(), sine[:, :half].contiguous())


def _embedding_weights(weight: Tensor) -> dict[int, Tensor]:
    """Return the patch embedding for pictures of one and of three colours, (width, values) float32.

    weight: (width, 3, frames, 16, 16). A picture's frames are equal, and so are a grey picture's colours: their weights
    add up, and a sixth or half of the products gives the same numbers.
    """
    colours = weight.float().sum(2)
    return {1: colours.sum(1).flatten(1), 3: colours.flatten(1)}


def _attend(attention: Any, x: Tensor, grid: _Grid) -> Tensor:
    """Let the patches of each picture see one another. x: (n, p, width)."""
    qkv = attention.qkv(x).view(*x.shape[:2], 3, attention.num_heads, -1)
    q, k = rotate_patches(qkv, grid.cosine, grid.sine).transpose(1, 3).unbind(2)
    v = qkv[:, :, 2].transpose(1, 2)
    seen = F.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
    return attention.proj(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # a stock module
