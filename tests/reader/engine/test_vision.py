from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medvl.planning.shape import PUBLISHED_SHAPES
from medvl.reader.engine.pictures import PictureCache
from medvl.reader.engine.vision import VisionEncoder
from tests.reader.engine.towers import SMALL, draw_pictures, encode_stock, in_bf16, make_tower

SQUARE = 64 * 64
PLENTY = 1 << 30


@pytest.fixture(scope="module")
def tower() -> Any:
    return make_tower(SMALL)


def make_encoder(tower: Any, pixels_at_once: int = 3 * SQUARE) -> VisionEncoder:
    return VisionEncoder(
        tower, SMALL, cache=PictureCache(device_bytes=PLENTY, host_bytes=0), pixels_at_once=pixels_at_once
    )


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(64, 64), (96, 32), (64, 64, 3)], ids=["grey", "upright", "three windows"])
def test_pictures_encode_as_in_the_stock_tower(tower: Any, count: int, size: tuple[int, ...]) -> None:
    pictures = draw_pictures(count, *size)
    encoded = make_encoder(tower).encode(pictures)
    for ours, stock in zip(encoded, encode_stock(tower, SMALL, pictures), strict=True):
        assert torch.allclose(ours.values, stock, rtol=1e-5, atol=1e-5)


def test_pictures_of_mixed_sizes_come_back_in_their_order(tower: Any) -> None:
    kinds = [(64, 64), (32, 32, 3), (96, 32), (64, 64), (32, 32), (64, 64, 3), (64, 64)]
    pictures = [draw_pictures(1, *size, seed=number)[0] for number, size in enumerate(kinds)]
    encoded = make_encoder(tower, 2 * SQUARE).encode(pictures)
    for ours, stock in zip(encoded, encode_stock(tower, SMALL, pictures), strict=True):
        assert torch.allclose(ours.values, stock, rtol=1e-5, atol=1e-5)


def test_tokens_and_deep_features_have_a_row_per_vision_token(tower: Any) -> None:
    (encoded,) = make_encoder(tower).encode(draw_pictures(1, 96, 64))
    assert encoded.tokens.shape == (6, 48)  # 3 × 2 squares of 32 px
    assert encoded.deep.shape == (2, 6, 48)


def test_a_picture_larger_than_what_goes_at_once_is_encoded_alone(tower: Any) -> None:
    pictures = draw_pictures(2, 96, 96)
    encoded = make_encoder(tower, pixels_at_once=1).encode(pictures)
    for ours, stock in zip(encoded, encode_stock(tower, SMALL, pictures), strict=True):
        assert torch.allclose(ours.values, stock, rtol=1e-5, atol=1e-5)


def test_no_pictures_give_no_encodings(tower: Any) -> None:
    assert make_encoder(tower).encode([]) == []


def test_equal_pictures_are_encoded_once_and_share_their_result(tower: Any) -> None:
    cache = PictureCache(device_bytes=0, host_bytes=0)
    (picture,) = draw_pictures(1, 64, 64)
    first, second = VisionEncoder(tower, SMALL, cache=cache, pixels_at_once=SQUARE).encode([picture, picture.copy()])
    assert first is second
    assert cache.counts.encoded == 1


def test_sides_that_are_no_whole_tokens_are_refused(tower: Any) -> None:
    with pytest.raises(ValueError, match="48 × 64; sides must be multiples of 32"):
        make_encoder(tower).encode(draw_pictures(1, 48, 64))


def heights_of_batches(tower: Any, counts: list[int]) -> list[int]:
    """Return how many pictures went through the tower together, each time, for calls with so many pictures."""
    heights: list[int] = []
    encoder = make_encoder(tower, 4 * SQUARE + 100)
    hook = tower.blocks[0].norm1.register_forward_hook(lambda _, inputs, __: heights.append(len(inputs[0])))
    for number, count in enumerate(counts):
        encoder.encode(draw_pictures(count, 64, 64, seed=number))
    hook.remove()
    return heights


def test_the_same_number_of_pictures_always_goes_through_the_tower_together(tower: Any) -> None:
    assert heights_of_batches(tower, [1, 4, 6]) == [4, 4, 4, 4]


def test_positions_are_computed_once_per_size(tower: Any) -> None:
    calls: list[int] = []
    hook = tower.pos_embed.register_forward_hook(lambda *_: calls.append(1))
    encoder = make_encoder(tower)
    for seed in range(3):
        encoder.encode(draw_pictures(2, 64, 64, seed=seed) + draw_pictures(2, 64, 64, 3, seed=seed))
    hook.remove()
    assert len(calls) == 1


def test_a_layer_attends_to_all_pictures_in_one_call(tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def attend(q: Tensor, *others: Tensor, **options: Any) -> Tensor:
        shapes.append(tuple(q.shape))
        return stock(q, *others, **options)

    stock = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    make_encoder(tower).encode(draw_pictures(3, 64, 64))
    assert shapes == [(3, 2, 16, 72)] * 3  # pictures, heads, patches, values a head; one for each of three layers


def test_grey_pictures_encode_as_three_equal_windows_do(tower: Any) -> None:
    (grey,) = draw_pictures(1, 64, 64)
    windows = grey[:, :, None].repeat(3, axis=2)
    one, three = make_encoder(tower).encode([grey, windows])
    assert torch.allclose(one.values, three.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (64, 64, 3)])
def test_bf16_stays_within_a_hundredth_of_float32(tower: Any, size: tuple[int, ...]) -> None:
    rounded = in_bf16(deepcopy(tower))
    exact = deepcopy(rounded).float()
    pictures = draw_pictures(3, *size)
    encoded = make_encoder(rounded).encode(pictures)
    assert encoded[0].values.dtype == torch.bfloat16
    for ours, stock in zip(encoded, encode_stock(exact, SMALL, pictures), strict=True):
        assert relative_error(ours.values, stock) < 1e-2


# --- on a card ---------------------------------------------------------------------------------------------------

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
ON_CARD = [pytest.param("cuda", marks=gpu)]
# The large tower's widths, where matrix products take the kernels they take in earnest; four of its layers.
WIDE = replace(PUBLISHED_SHAPES["Qwen/Qwen3-VL-8B-Instruct"], vision_layers=4, deepstack=(1, 3))


def wide_encoder(device: str, cache: PictureCache | None = None, at_once: int = 4) -> VisionEncoder:
    tower = in_bf16(make_tower(WIDE, device, spread=0.02))
    return VisionEncoder(
        tower, WIDE, cache=cache or PictureCache(device_bytes=0, host_bytes=0), pixels_at_once=at_once * 512**2
    )


@pytest.mark.parametrize("device", ON_CARD)
@pytest.mark.parametrize("size", [(512, 512), (256, 384, 3)])
def test_a_card_stays_within_a_hundredth_of_float32(device: str, size: tuple[int, ...]) -> None:
    exact = in_bf16(make_tower(WIDE, device, spread=0.02)).float()
    pictures = draw_pictures(5, *size)
    encoded = wide_encoder(device).encode(pictures)
    for ours, stock in zip(encoded, encode_stock(exact, WIDE, pictures), strict=True):
        assert relative_error(ours.values, stock) < 1e-2


@pytest.mark.parametrize("device", ON_CARD)
def test_an_encoding_on_a_card_is_the_same_to_the_last_bit_in_any_company(device: str) -> None:
    pictures = draw_pictures(6, 512, 512)
    encoder = wide_encoder(device)
    together = encoder.encode(pictures)
    for picture, expected in zip(reversed(pictures), reversed(together), strict=True):
        assert torch.equal(encoder.encode([picture])[0].values, expected.values)


@pytest.mark.parametrize("device", ON_CARD)
def test_encoding_and_the_memory_cache_never_wait_for_the_card(device: str) -> None:
    one = WIDE.picture_tokens(512) * WIDE.hidden * 2 * (1 + len(WIDE.deepstack))
    encoder = wide_encoder(device, PictureCache(device_bytes=2 * one, host_bytes=8 * one))
    encoder.encode(draw_pictures(1, 512, 512))  # positions of this size
    torch.cuda.set_sync_debug_mode("error")
    try:
        first = encoder.encode(draw_pictures(6, 512, 512, seed=1))
        again = encoder.encode(draw_pictures(6, 512, 512, seed=1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(one.values, other.values) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("device", ON_CARD)
def test_a_cached_picture_does_not_hold_on_to_its_neighbours(device: str) -> None:
    one = WIDE.picture_tokens(512) * WIDE.hidden * 2 * (1 + len(WIDE.deepstack))
    encoder = wide_encoder(device, PictureCache(device_bytes=one, host_bytes=0))
    encoder.encode(draw_pictures(4, 512, 512))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    encoder.encode(draw_pictures(4, 512, 512, seed=1))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
