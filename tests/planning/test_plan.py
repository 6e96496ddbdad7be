import subprocess
import sys

import pytest

from medvl.planning.device import Device
from medvl.planning.memory import GIB, Load, predict_memory, weights_bytes
from medvl.planning.plan import Wishes, Workload, plan_reading
from medvl.planning.shape import PUBLISHED_SHAPES

SHAPE_8B = PUBLISHED_SHAPES["Qwen/Qwen3-VL-8B-Instruct"]
CT_300 = Workload((300,), size_px=512, text_tokens=600, label_tokens=16, new_tokens=1024)


def card(gibibytes: float) -> Device:
    return Device("cuda", "a card", int(gibibytes * GIB), int(gibibytes * GIB))


@pytest.mark.parametrize(("precision", "measured_gib"), [("bf16", 40.6), ("int8", 37.8), ("nf4", 30.6)])
def test_predicted_peaks_are_above_the_measured_ones_and_near(precision, measured_gib):
    # Measured on one H100, stock transformers, 30 chunks of ten 512² slices.
    load = Load(rows=30, pictures=10, prompt_tokens=2800, new_tokens=256, size_px=512)
    predicted_gib = predict_memory(SHAPE_8B, precision, load, cuda=True).peak_bytes / GIB
    assert 1.0 <= predicted_gib / measured_gib <= 1.12


@pytest.mark.parametrize(("precision", "gib"), [("bf16", 16.3), ("nf4", 7.0), ("int8", 9.9)])
def test_weights_of_the_8b_take_what_they_take(precision, gib):
    assert weights_bytes(SHAPE_8B, precision, cuda=True) / GIB == pytest.approx(gib, abs=0.1)


def test_a_slice_of_512_costs_36_mebibytes_of_cache():
    assert SHAPE_8B.picture_tokens(512) * SHAPE_8B.cache_bytes_per_token() == 36 * 2**20


def test_a_large_card_reads_ten_slices_at_a_time_in_large_batches():
    plan = plan_reading(SHAPE_8B, card(80), CT_300, Wishes(), None)
    assert (plan.precision, plan.chunk_length, plan.overlap, plan.batch) == ("int8", 10, 1, 16)
    assert plan.chunk_count == 34  # 1 + ceil((300 - 10) / 9)
    assert plan.picture_count == 333
    assert plan.fits


def test_a_smaller_card_reads_fewer_chunks_at_once_then_shorter_ones_then_in_4_bit():
    batches = [plan_reading(SHAPE_8B, card(size), CT_300, Wishes(), None) for size in (24, 16, 12, 10)]
    assert [plan.fits for plan in batches] == [True] * 4
    assert [plan.precision for plan in batches] == ["int8", "int8", "int8", "nf4"]
    assert batches[0].batch > batches[1].batch >= 1
    assert batches[2].chunk_length < 10


def test_a_card_that_is_too_small_is_told_what_would_help():
    plan = plan_reading(SHAPE_8B, card(6), CT_300, Wishes(), None)
    assert not plan.fits
    assert "Qwen/Qwen3-VL-4B-Instruct" in plan.advice


def test_memory_can_be_planned_for_another_card():
    here = plan_reading(SHAPE_8B, card(80), CT_300, Wishes(), 24 * GIB)
    there = plan_reading(SHAPE_8B, card(24), CT_300, Wishes(), None)
    assert (here.chunk_length, here.batch) == (there.chunk_length, there.batch)


def test_wishes_are_kept():
    plan = plan_reading(SHAPE_8B, card(80), CT_300, Wishes("bf16", chunk=4, batch=2), None)
    assert (plan.precision, plan.chunk_length, plan.batch) == ("bf16", 4, 2)


def test_planning_imports_no_torch():
    code = "import sys, medvl.planning.plan, medvl.planning.device; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
