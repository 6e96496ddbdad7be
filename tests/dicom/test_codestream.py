from __future__ import annotations

from random import Random

import numpy as np
import pytest
from openjpeg.utils import encode_array

from medvl.dicom.codestream import find_damage
from medvl.dicom.decoders import DecodeError, decode_frame, decode_with
from tests.dicom.test_decoders import layout_of

JPEG_2000 = "1.2.840.10008.1.2.4.90"
HOLE = 512  # bytes of a lost disk sector


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4096, (256, 256)).astype(np.uint16)


@pytest.fixture(scope="module")
def codestream() -> bytes:
    return bytes(encode_array(noise()))


def overwritten(content: bytes, at: int, with_bytes: bytes) -> bytes:
    return content[:at] + with_bytes + content[at + len(with_bytes) :]


def test_decoders_make_a_wrong_picture_of_a_hole_and_so_it_is_refused(codestream):
    layout = layout_of(JPEG_2000, bits_allocated=16, bits_stored=16)
    damaged = overwritten(codestream, len(codestream) // 2, bytes(HOLE))
    assert (decode_with("pylibjpeg", codestream, layout, 256, 256) == noise()).all()
    assert (decode_with("pylibjpeg", damaged, layout, 256, 256) != noise()).any()
    with pytest.raises(DecodeError, match="its compressed pixels are damaged: zeros stand in place of data"):
        decode_frame(damaged, layout, 256, 256)


def test_random_bytes_hold_markers_that_packets_do_not(codestream):
    # Two bytes of chance are a marker with 1/256 × 112/256: in 16 KiB 28 are expected, none with a chance of 1e-12.
    damaged = overwritten(codestream, 2000, Random(0).randbytes(16384))
    assert find_damage(damaged) == "a marker stands where there can be none"


def test_bytes_lost_or_added_break_the_length_of_the_tile_part(codestream):
    half = len(codestream) // 2
    reason = "its tile-parts are not as long as they say"
    assert find_damage(codestream[:half] + codestream[half + 7 :]) == reason
    assert find_damage(codestream[:half] + b"medvl" + codestream[half:]) == reason
    assert find_damage(codestream[:half]) == reason


def test_a_missing_end_or_padding_behind_it_is_no_damage(codestream):
    assert find_damage(codestream[:-2]) == ""
    assert find_damage(codestream + b"\0") == ""


@pytest.mark.parametrize("seed", range(5))
def test_whole_codestreams_show_no_damage(seed):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(32, 300, 2))
    for stored in (np.zeros(shape, np.uint16), random.integers(0, 2 ** (4 + 3 * seed), shape).astype(np.uint16)):
        assert find_damage(bytes(encode_array(stored))) == ""


@pytest.mark.parametrize(("zeros", "damage"), [(6, ""), (39, ""), (40, "zeros stand in place of data")])
def test_only_more_zeros_than_packets_can_be_empty_are_a_hole(codestream, zeros, damage):
    # One layer, 6 resolutions of at most 4 precincts each, since a grid may begin anywhere: 24 packets; 16 by chance.
    start, data = codestream.find(b"\xff\x90"), codestream.find(b"\xff\x93") + 2
    header = overwritten(codestream[:data], start + 6, (data - start + zeros).to_bytes(4, "big"))
    assert find_damage(header + bytes(zeros) + b"\xff\xd9") == damage


def test_other_bytes_show_no_damage():
    assert [find_damage(content) for content in (b"", b"RLE", b"\xff\xd8\xff\xd9", b"\xff\x4f\xff\x51")] == [""] * 4


@pytest.mark.parametrize("cut", range(0, 200, 3))
def test_headers_cut_anywhere_raise_nothing(codestream, cut):
    assert find_damage(codestream[:cut]) in ("", "its tile-parts are not as long as they say")


def test_a_header_that_claims_endless_packets_costs_no_memory(codestream):
    at = codestream.find(b"\xff\x52")
    hostile = overwritten(codestream, at + 4, b"\x01\x00\xff\xff\x00\xff")  # own precincts, 65,535 layers
    assert find_damage(hostile) == ""
