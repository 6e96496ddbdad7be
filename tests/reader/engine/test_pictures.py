from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.reader.engine.pictures import Encoded, PictureCache, picture_key
from medvl.reader.engine.vision import VisionEncoder
from tests.reader.engine.towers import SMALL, draw_pictures, make_tower

CPU = torch.device("cpu")


def encoded(number: float, tokens: int = 4) -> Encoded:
    """16 bytes a token."""
    return Encoded(torch.full((2, tokens, 2), float(number)))


def find(cache: PictureCache, key: str) -> float | None:
    found = cache.find(key, CPU)
    return None if found is None else float(found.values.mean())


# --- keys --------------------------------------------------------------------------------------------------------


def test_equal_pixels_have_one_key_however_they_lie_in_memory() -> None:
    (picture,) = draw_pictures(1, 32, 64)
    assert picture_key(np.asfortranarray(picture)) == picture_key(picture)


def test_one_grey_level_makes_another_key() -> None:
    picture = np.zeros((32, 32), np.uint8)
    other = picture.copy()
    other[31, 31] = 1
    assert picture_key(other) != picture_key(picture)


@pytest.mark.parametrize("size", [(16, 64), (64, 16), (32, 32, 1)])
def test_equal_bytes_in_another_size_have_another_key(size: tuple[int, ...]) -> None:
    picture = np.zeros((32, 32), np.uint8)
    assert picture_key(picture.reshape(size)) != picture_key(picture)


# --- device and host ---------------------------------------------------------------------------------------------


def test_the_picture_used_longest_ago_goes_to_the_host_and_comes_back() -> None:
    cache = PictureCache(device_bytes=128, host_bytes=64)  # two pictures of 64 bytes, and one
    for number, key in enumerate("abc"):
        cache.keep(key, encoded(number))
    assert find(cache, "a") == 0  # from the host; b goes there
    assert find(cache, "c") == 2
    cache.keep("d", encoded(3))  # a goes to the host, and b from there to nowhere
    assert [find(cache, key) for key in "bdac"] == [None, 3, 0, 2]
    assert cache.counts.hits + cache.counts.misses == 6
    assert cache.counts.device_hits == 2  # c once, d
    assert cache.counts.host_hits == 3  # a twice, and c, which a's return sent there


def test_without_room_on_the_device_pictures_stay_on_the_host() -> None:
    cache = PictureCache(device_bytes=0, host_bytes=64)
    cache.keep("a", encoded(1))
    assert [find(cache, "a"), find(cache, "a")] == [1, 1]
    assert (cache.device_bytes, cache.host_bytes) == (0, 64)


def test_a_picture_larger_than_both_memories_is_not_kept() -> None:
    cache = PictureCache(device_bytes=63, host_bytes=63)
    cache.keep("a", encoded(1))
    assert find(cache, "a") is None
    assert cache.counts.misses == 1


def test_host_memory_counts_as_torch_hands_it_out_in_powers_of_two() -> None:
    cache = PictureCache(device_bytes=0, host_bytes=1000)
    cache.keep("a", encoded(1, tokens=5))  # 80 bytes
    assert cache.host_bytes == 128


def test_keeping_a_picture_again_replaces_it() -> None:
    cache = PictureCache(device_bytes=200, host_bytes=0)
    cache.keep("a", encoded(1))
    cache.keep("a", encoded(2))
    assert find(cache, "a") == 2
    assert cache.device_bytes == 64


def test_a_cleared_cache_holds_nothing() -> None:
    cache = PictureCache(device_bytes=64, host_bytes=64)
    cache.keep("a", encoded(1))
    cache.keep("b", encoded(2))
    cache.clear()
    assert [find(cache, key) for key in "ab"] == [None, None]
    assert (cache.device_bytes, cache.host_bytes) == (0, 0)


bounds = st.integers(0, 400)
uses = st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=40)


@given(device_bytes=bounds, host_bytes=bounds, uses=uses)
@settings(max_examples=150, deadline=None)
def test_the_bounds_hold_at_every_moment_and_what_is_found_is_what_was_kept(
    device_bytes: int, host_bytes: int, uses: list[tuple[bool, int]]
) -> None:
    cache = PictureCache(device_bytes=device_bytes, host_bytes=host_bytes)
    given_away: dict[int, weakref.ref[torch.Tensor]] = {}
    for is_kept, number in uses:
        if is_kept:
            values = encoded(number, tokens=number + 1).values
            cache.keep(str(number), Encoded(values))
            given_away[number] = weakref.ref(values)
            del values
        else:
            assert find(cache, str(number)) in ({None, float(number)} if number in given_away else {None})
        assert 0 <= cache.device_bytes <= device_bytes
        assert 0 <= cache.host_bytes <= host_bytes
        assert alive_bytes(given_away.values()) <= device_bytes


def alive_bytes(tensors: Iterable[weakref.ref[torch.Tensor]]) -> int:
    return sum(values.nbytes for reference in tensors if (values := reference()) is not None)


# --- with the tower ----------------------------------------------------------------------------------------------

TOWER = make_tower(SMALL)
PICTURES = [*draw_pictures(4, 64, 64), *draw_pictures(2, 32, 32, 3)]
NO_CACHE = {"device_bytes": 0, "host_bytes": 0}


def make_encoder(cache: PictureCache, pixels_at_once: int = 2 * 64 * 64) -> VisionEncoder:
    return VisionEncoder(TOWER, SMALL, cache=cache, pixels_at_once=pixels_at_once)


ALONE = [make_encoder(PictureCache(**NO_CACHE)).encode([picture])[0].values for picture in PICTURES]
calls = st.lists(st.lists(st.integers(0, len(PICTURES) - 1), max_size=6), max_size=4)


def encode_all(encoder: VisionEncoder, calls: Sequence[Sequence[int]]) -> None:
    for numbers in calls:
        for number, found in zip(numbers, encoder.encode([PICTURES[number] for number in numbers]), strict=True):
            assert torch.allclose(found.values, ALONE[number], rtol=1e-5, atol=1e-5)


@given(calls=calls, pixels_at_once=st.sampled_from([1, 64 * 64, 3 * 64 * 64]))
@settings(max_examples=15, deadline=None)
def test_any_order_of_calls_encodes_each_picture_once_and_as_alone(calls: list[list[int]], pixels_at_once: int) -> None:
    cache = PictureCache(device_bytes=1 << 20, host_bytes=0)
    encode_all(make_encoder(cache, pixels_at_once), calls)
    assert cache.counts.encoded == len({number for numbers in calls for number in numbers})


@given(calls=calls, device_bytes=st.integers(0, 10_000), host_bytes=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_with_little_room_only_pictures_that_are_not_in_the_cache_are_encoded(
    calls: list[list[int]], device_bytes: int, host_bytes: int
) -> None:
    cache = PictureCache(device_bytes=device_bytes, host_bytes=host_bytes)
    encode_all(make_encoder(cache), calls)
    assert cache.counts.encoded == cache.counts.misses
    assert cache.device_bytes <= device_bytes and cache.host_bytes <= host_bytes
