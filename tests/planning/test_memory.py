import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvl.planning.memory import GIB, Load, linear_bytes, predict_memory, weights_bytes
from medvl.planning.shape import PUBLISHED_SHAPES

SHAPE_8B = PUBLISHED_SHAPES["Qwen/Qwen3-VL-8B-Instruct"]
TEN_SLICES = Load(30, 10, prompt_tokens=2800, new_tokens=256, size_px=512, pictures_at_once=10)
MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "memory.json"
PEAKS = json.loads(MEASURED.read_text())["peaks"]
# Above a measured peak by no more than this; stock transformers varies with what its libraries choose to do.
CLOSE = {"engine": 1.01, "stock": 1.08}


@pytest.mark.parametrize("peak", PEAKS, ids=lambda peak: f"{peak['path']} {peak['precision']} {peak['load']}")
def test_the_prediction_is_never_under_a_measured_peak_and_near_it(peak):
    shape, load = PUBLISHED_SHAPES[peak["model"]], Load(**peak["load"])
    predicted_gib = predict_memory(shape, peak["precision"], load, peak["path"]).allocated_bytes / GIB
    assert 1.0 <= predicted_gib / (peak["peak_gib"] - peak["carried_mib"] / 1024) <= CLOSE[peak["path"]]


def test_int8_keeps_one_byte_a_weight_and_a_scale_a_row():
    # 36 layers of 6144 + 4096 + 24576 + 4096 = 38,912 rows, each with a float32 scale
    assert linear_bytes(SHAPE_8B, "int8") == 6_945_767_424 + 36 * 38_912 * 4 == 6_951_370_752


def test_nf4_keeps_half_a_byte_a_weight_and_a_scale_per_64():
    assert linear_bytes(SHAPE_8B, "nf4") == 3_472_883_712 + 434_110_464


@pytest.mark.parametrize(
    ("precision", "path", "total"),
    [  # 8,767,123,696 weights in all, of them 1,821,356,272 outside the text layers' products
        ("bf16", "engine", 17_534_247_392),
        ("int8", "stock", 10_594_083_296),
        ("int8", "engine", 10_599_686_624),  # 9.87 GiB; its scales divided by 127 beside them
        ("nf4", "stock", 7_549_706_720),  # 7.03 GiB
        ("nf4", "engine", 7_832_822_240),  # and scales of 36 × 4096 × (6144 + 24,576) stacked weights, 4 bytes per 64
        ("int8", "cpu", 14_236_795_840),  # all but the products in float32
        ("fp32", "cpu", 35_068_494_784),
    ],
)
def test_weights_of_the_8b_take_what_they_take(precision, path, total):
    assert weights_bytes(SHAPE_8B, precision, path) == total


def test_a_slice_of_512_costs_36_mebibytes_of_cache():
    assert SHAPE_8B.picture_tokens(512) * SHAPE_8B.cache_bytes_per_token() == 36 * 2**20


def test_the_parts_of_an_engine_run_of_the_8b_add_up():
    memory = predict_memory(SHAPE_8B, "int8", TEN_SLICES, "engine")
    assert memory.cache_bytes == 30 * 3072 * 144 * 1024  # 2,800 + 256 tokens, rounded up to 3,072
    assert memory.picture_bytes == 10 * 8 * 2**20  # 256 tokens × 4096 × 2 bytes, and three times that for deepstack
    # 2,800 tokens × ((5 × 4096 + 3 × 12288) × 2 + 2 × 128 × 4) bytes, and gate and up as bf16: 24,576 × 4,096 × 2 bytes
    assert memory.activation_bytes == 323_993_600 + 201_326_592
    assert memory.logits_bytes == 30 * 151_936 * 4
    assert memory.peak_bytes == memory.allocated_bytes + GIB // 2


def test_bf16_needs_no_room_to_unpack_weights_but_holds_one_product_more():
    quantised, plain = (predict_memory(SHAPE_8B, kind, TEN_SLICES, "engine") for kind in ("nf4", "bf16"))
    assert plain.activation_bytes == 323_993_600 + 2800 * 12_288 * 2
    assert quantised.activation_bytes == 323_993_600 + 201_326_592


def test_many_pictures_at_once_take_more_than_a_short_prompt():
    one = Load(1, 1, prompt_tokens=400, new_tokens=64, size_px=512, pictures_at_once=10)
    # 10,240 patches × (2 × 1152 + 2 × 4304) × 2 bytes
    assert predict_memory(SHAPE_8B, "bf16", one, "engine").activation_bytes == 223_477_760


def test_many_rows_take_more_in_a_step_than_a_short_prompt():
    short = Load(32, 1, prompt_tokens=300, new_tokens=64, size_px=448)
    assert predict_memory(SHAPE_8B, "bf16", short, "engine").activation_bytes == 32 * 151_936 * 4 * 3


def test_stock_int8_widens_the_columns_that_meet_outliers():
    little = Load(1, 1, prompt_tokens=1, new_tokens=1, size_px=32)
    int8, bf16 = (predict_memory(SHAPE_8B, kind, little, "stock").activation_bytes for kind in ("int8", "bf16"))
    assert int8 - 1.25 * bf16 == pytest.approx(5 * 4096 * 12_288, abs=1)


def test_the_engine_prefills_one_prompt_where_stock_takes_the_whole_batch():
    one, thirty = (
        {path: predict_memory(SHAPE_8B, "bf16", replace(TEN_SLICES, rows=rows), path) for path in ("engine", "stock")}
        for rows in (1, 30)
    )
    assert thirty["engine"].activation_bytes == one["engine"].activation_bytes
    assert thirty["stock"].activation_bytes == 30 * one["stock"].activation_bytes


def test_kept_pictures_count():
    kept = predict_memory(SHAPE_8B, "int8", replace(TEN_SLICES, kept_pictures=300), "engine")
    assert kept.picture_bytes == 310 * 8 * 2**20


LOADS = st.builds(
    Load,
    rows=st.integers(1, 32),
    pictures=st.integers(1, 40),
    prompt_tokens=st.integers(100, 20_000),
    new_tokens=st.integers(16, 4096),
    size_px=st.sampled_from([224, 448, 512, 1024]),
    pictures_at_once=st.integers(1, 16),
    kept_pictures=st.integers(0, 300),
)


@given(
    load=LOADS,
    grown=st.sampled_from(["rows", "pictures", "prompt_tokens", "new_tokens", "pictures_at_once", "kept_pictures"]),
    more=st.integers(1, 1000),
    path=st.sampled_from(["engine", "stock", "cpu"]),
    precision=st.sampled_from(["int8", "nf4", "bf16", "fp32"]),
    name=st.sampled_from(sorted(PUBLISHED_SHAPES)),
)
def test_more_of_anything_never_takes_less(load, grown, more, path, precision, name):
    larger = replace(load, **{grown: getattr(load, grown) + more})
    before, after = (predict_memory(PUBLISHED_SHAPES[name], precision, each, path) for each in (load, larger))
    assert after.peak_bytes >= before.peak_bytes
