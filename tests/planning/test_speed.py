import json
from dataclasses import replace
from pathlib import Path

import pytest

from medvl.planning.device import Device
from medvl.planning.shape import PUBLISHED_SHAPES
from medvl.planning.speed import Amount, card_rates, estimate_seconds

SHAPE_8B = PUBLISHED_SHAPES["Qwen/Qwen3-VL-8B-Instruct"]
# 300 slices of 512² in 34 chunks of ten with one shared: 333 pictures of 272 tokens, 600 tokens of text a chunk
CT_300 = Amount(34, 32, tokens=110_976, prompt_tokens=3320, vision_tokens=300 * 256, reply_tokens=150)


def card(name: str) -> Device:
    return Device("cuda", name, 2**37, 2**37)


@pytest.mark.parametrize(
    ("name", "bytes_per_s", "operations_per_s"),
    [
        ("NVIDIA H200", 4.8e12, 989e12),
        ("NVIDIA H100 80GB HBM3", 3.35e12, 989e12),
        ("NVIDIA H100 PCIe", 2.0e12, 756e12),
        ("NVIDIA A100-SXM4-40GB", 1.555e12, 312e12),
        ("NVIDIA A100-SXM4-80GB", 1.935e12, 312e12),
        ("NVIDIA L40S", 864e9, 362e12),
        ("NVIDIA A10", 600e9, 125e12),
        ("NVIDIA L4", 300e9, 121e12),
        ("Tesla T4", 320e9, 65e12),
        ("NVIDIA GeForce RTX 3090", 936e9, 71e12),
        ("NVIDIA GeForce RTX 4090", 1.008e12, 165e12),
        ("NVIDIA GeForce RTX 5090", 1.792e12, 209e12),
    ],
)
def test_cards_are_known_by_the_drivers_name(name, bytes_per_s, operations_per_s):
    rates = card_rates(name)
    assert (rates.bytes_per_s, rates.operations_per_s) == (bytes_per_s, operations_per_s)


@pytest.mark.parametrize(
    "name", ["a card with 24 GiB", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"]
)
def test_unknown_cards_and_parts_of_known_ones_are_thought_slow(name):
    assert card_rates(name).bytes_per_s == 300e9


def test_the_vision_tower_of_the_8b_takes_three_and_a_half_gigaoperations_a_token():
    # 2 × (4 × 27 × (4 × 1152² + 2 × 1152 × 4304) + 4 mergers × 4608 × (4608 + 4096))
    assert SHAPE_8B.vision_operations_per_token == 2 * (1_644_281_856 + 160_432_128)


def test_the_engines_time_for_300_slices_on_one_h200_is_worked_out():
    # Prefill: products 2 × 6.9458e9 × 110,976 = 1.5416e15, attention 2 × 36 × 4096 × 3320 × 110,976 = 0.1087e15, at
    # 0.58 × 989e12: 2.877 s. Vision: 3.6094e9 × 76,800 = 0.2772e15 at 0.27 × 989e12: 1.038 s.
    # Unpacking: 34 × (6.951e9 + 13.892e9) bytes at 0.48 × 4.8e12: 0.308 s.
    # Decode: 150 × 34 / 32 = 159.4 steps of (6.951e9 + 1.245e9) / 0.32 + 32 × 3395 × 147,456 / 0.77 = 46.42e9: 1.541 s.
    assert estimate_seconds(SHAPE_8B, card("NVIDIA H200"), "int8", CT_300, "engine") == pytest.approx(5.764, abs=0.003)


def test_without_unpacking_but_with_larger_weights_bf16_takes_about_as_long():
    # 2.877 + 1.038 s, and 159.4 steps of 15.136e9 / 0.55 + 16.02e9 / 0.77 = 48.33e9: 1.605 s
    assert estimate_seconds(SHAPE_8B, card("NVIDIA H200"), "bf16", CT_300, "engine") == pytest.approx(5.520, abs=0.003)


# The rows of benchmarks/results/engine-h200.json: 30 chunks of 10 slices of 512², 256 new tokens each.
MEASURED = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "engine-h200.json").read_text())
TIMED = [
    (row["name"], row["precision"], path, row["total_s"])
    for row in MEASURED["rows"]
    for path in ("engine", "stock")
    if row["name"].startswith("ours-" if path == "engine" else "stock-") and not row["failure"]
]


@pytest.mark.parametrize(
    ("precision", "path", "total_s"), [each[1:] for each in TIMED], ids=[each[0] for each in TIMED]
)
def test_the_estimate_is_near_what_was_measured(precision, path, total_s):
    tokens = 30 * MEASURED["prompt_tokens"]
    amount = Amount(30, 30, tokens, MEASURED["prompt_tokens"], vision_tokens=300 * 256, reply_tokens=256)
    estimated = estimate_seconds(SHAPE_8B, card(MEASURED["machine"]["card"]), precision, amount, path)
    assert estimated == pytest.approx(total_s, rel=0.05)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
@pytest.mark.parametrize(("rows", "measured"), [(1, "lone_step_s"), (30, "step_s")])
def test_a_step_is_estimated_near_what_was_measured(precision, rows, measured):
    row = next(row for row in MEASURED["rows"] if row["name"] == f"ours-{precision}")

    def seconds(reply_tokens: int) -> float:
        prompt = MEASURED["prompt_tokens"]
        amount = Amount(rows, rows, rows * prompt, prompt, vision_tokens=0, reply_tokens=reply_tokens)
        return estimate_seconds(SHAPE_8B, card("NVIDIA H200"), precision, amount, "engine")

    assert (seconds(256) - seconds(0)) / 256 == pytest.approx(row[measured], rel=0.02)


def test_rows_that_end_make_room_for_waiting_chunks_only_in_the_engine():
    few, all_at_once = (replace(CT_300, chunks=33, rows=rows) for rows in (32, 33))

    def steps_more(path: str) -> float:
        device = card("NVIDIA H200")
        one, other = (estimate_seconds(SHAPE_8B, device, "bf16", each, path) for each in (few, all_at_once))
        return one - other

    assert steps_more("engine") < 0.05  # a thirty-second part of the replies
    assert steps_more("stock") > 8  # a second batch for one chunk
