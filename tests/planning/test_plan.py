import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import medvl.planning.plan
from medvl.planning.device import Device
from medvl.planning.memory import GIB
from medvl.planning.plan import Plan, Wishes, Workload, decode_path, plan_reading
from medvl.planning.shape import PUBLISHED_SHAPES

SHAPE_8B = PUBLISHED_SHAPES["Qwen/Qwen3-VL-8B-Instruct"]
CT_300 = Workload((300,), size_px=512, text_tokens=600, label_tokens=16, new_tokens=1024)


def card(gibibytes: float, name: str = "a card", *, runs_engine: bool = True) -> Device:
    return Device("cuda", name, int(gibibytes * GIB), int(gibibytes * GIB), runs_engine)


def plan(gibibytes: float, work: Workload = CT_300, shape=SHAPE_8B, **wishes) -> Plan:
    return plan_reading(shape, card(gibibytes), work, Wishes(**wishes), None)


def test_a_large_card_reads_ten_slices_at_a_time_and_32_chunks_at_once():
    roomy = plan(80)
    assert (roomy.precision, roomy.path) == ("int8", "engine")
    assert (roomy.chunk_length, roomy.overlap, roomy.batch, roomy.pixels_at_once) == (10, 1, 32, 5 * 512**2)
    assert roomy.chunk_count == 34  # 1 + ceil((300 - 10) / 9)
    assert roomy.picture_count == 333
    assert roomy.picture_cache_bytes == 300 * 8 * 2**20  # every slice's encoding stays
    assert roomy.fits


def test_no_more_rows_than_chunks():
    assert plan(80, Workload((28,), 512, 600, 16, 1024)).batch == 3


@pytest.mark.parametrize(("gibibytes", "batch"), [(24, 20), (16, 7), (12, 1)])
def test_300_slices_fit_in_8_bit_and_chunks_of_ten_down_to_12_gib(gibibytes, batch):
    # A chunk takes 3,320 + 1,024 tokens, rounded up to 4,352: 612 MiB of keys and values.
    small = plan(gibibytes)
    assert (small.precision, small.chunk_length, small.batch, small.fits) == ("int8", 10, batch, True)


def test_below_that_chunks_get_shorter_then_weights_4_bit():
    eleven, ten = plan(11.5), plan(10)
    assert (eleven.precision, eleven.batch) == ("int8", 1)
    assert 1 < eleven.chunk_length < 10
    assert (ten.precision, ten.chunk_length, ten.fits) == ("nf4", 10, True)
    assert ten.precision_reason == (
        "4-bit weights, since 8-bit ones take at least 11.1 GiB; --model Qwen/Qwen3-VL-4B-Instruct (int8) would fit"
    )


def test_at_8_gib_the_8b_is_told_that_the_4b_fits_and_it_does():
    eight, smaller = plan(8), plan(8, shape=PUBLISHED_SHAPES["Qwen/Qwen3-VL-4B-Instruct"])
    assert not eight.fits
    assert eight.precision_reason == "4-bit weights, since 8-bit ones take at least 11.1 GiB"
    assert "try --model Qwen/Qwen3-VL-4B-Instruct (int8), a smaller --size or a device with more" in eight.advice
    assert (smaller.precision, smaller.chunk_length, smaller.fits) == ("int8", 10, True)


def test_a_precision_that_does_not_fit_is_told_which_one_does():
    asked = plan(16, precision="bf16")
    assert (asked.precision, asked.fits) == ("bf16", False)
    assert "try --precision int8, --model Qwen/Qwen3-VL-4B-Instruct (int8)" in asked.advice


def test_where_nothing_published_fits_no_model_is_named():
    assert plan(1).advice == "Not even one picture fits: try a smaller --size or a device with more memory"


def test_8_bit_stays_the_default_with_the_numbers_that_spoke_for_it():
    assert plan(80).precision_reason.startswith("8-bit weights, medvl's default; ")
    assert plan(80).precision_reason.endswith(" in bf16 90.2 s")
    assert plan(24).precision_reason.endswith("; bf16 for 32 chunks at once would take 36.6 GiB")


def test_bf16_is_chosen_where_it_fits_and_is_a_tenth_faster():
    # Short chunks and replies of 40 tokens: unpacking 8-bit weights for every prompt costs more than reading larger
    # ones in few steps.
    short = Workload((300,), 512, 600, 16, new_tokens=40)
    chosen = plan(80, short, chunk=4)
    assert chosen.precision == "bf16"
    assert chosen.precision_reason.startswith("bf16 fits and is clearly faster; ")
    assert chosen.seconds <= 0.9 * plan(80, short, chunk=4, precision="int8").seconds
    assert plan(20, short, chunk=4).precision == "int8"  # there not all rows fit


def test_a_few_hundredths_are_not_worth_another_precision():
    h200 = card(139, "NVIDIA H200")
    int8 = plan_reading(SHAPE_8B, h200, CT_300, Wishes(), None)
    bf16 = plan_reading(SHAPE_8B, h200, CT_300, Wishes(precision="bf16"), None)
    assert int8.precision == "int8"
    assert 0.9 * int8.seconds < bf16.seconds < int8.seconds


def test_some_memory_is_left_to_the_allocator():
    assert plan(24).available_bytes == int(24 * GIB * 0.99) - GIB // 8
    assert plan(24, decode="stock").available_bytes == int(24 * GIB * 0.92)
    assert plan(0.1).available_bytes == 0


def test_without_the_engine_8_bit_stays_the_default_so_that_unplugging_it_keeps_the_findings():
    assert plan(80, decode="stock").precision == "int8"
    assert plan(80, decode="stock").precision_reason == "8-bit weights, medvl's default"


def test_weights_that_the_reader_could_not_load_are_not_planned_again():
    broken = plan(80, trouble="bitsandbytes does not work on cuda: no kernel image")
    assert broken.precision == "bf16"
    assert broken.precision_reason == (
        "8-bit weights cannot be loaded: bitsandbytes does not work on cuda: no kernel image"
    )
    assert "int8" not in plan(12, trouble="no kernel image").advice


def test_a_missing_library_is_known_beforehand(monkeypatch):
    monkeypatch.setattr(medvl.planning.plan, "has_bitsandbytes", lambda: False)
    assert plan(80).precision == "bf16"
    assert plan(80).precision_reason.endswith("bitsandbytes is not installed")


@pytest.mark.parametrize(
    ("device", "decode", "path"),
    [
        (card(80), "auto", "engine"),
        (card(80), "stock", "stock"),
        (card(80, runs_engine=False), "auto", "stock"),
        (card(80, runs_engine=False), "engine", "engine"),
        (Device("cpu", "host memory", GIB, GIB), "engine", "cpu"),
    ],
)
def test_the_engine_is_for_gpus_that_run_it(device, decode, path):
    assert decode_path(device, decode) == path


def test_memory_can_be_planned_for_another_card():
    here = plan_reading(SHAPE_8B, card(80), CT_300, Wishes(), 24 * GIB)
    assert (here.chunk_length, here.batch) == (plan(24).chunk_length, plan(24).batch)


def test_wishes_are_kept():
    wished = plan(80, precision="bf16", chunk=4, batch=2)
    assert (wished.precision, wished.chunk_length, wished.batch) == ("bf16", 4, 2)


def test_the_engine_has_32_rows_unless_more_are_wished_and_no_more_than_chunks():
    assert plan(80).batch == 32
    assert plan(80, batch=33).batch == 33
    assert plan(80, batch=100).batch == plan(80).chunk_count == 34


CARDS = st.floats(1, 160, allow_nan=False)
WORKS = st.builds(
    Workload,
    view_slab_counts=st.lists(st.integers(0, 500), max_size=3).map(tuple),
    size_px=st.sampled_from([224, 448, 512, 1024]),
    text_tokens=st.integers(50, 2000),
    label_tokens=st.integers(2, 30),
    new_tokens=st.integers(16, 4096),
)
MODELS = st.sampled_from([PUBLISHED_SHAPES[name] for name in sorted(PUBLISHED_SHAPES)])
DECODES = st.sampled_from(["auto", "stock"])


@given(gibibytes=CARDS, work=WORKS, shape=MODELS, decode=DECODES)
def test_fits_means_that_the_peak_does_and_advice_is_given_when_not(gibibytes, work, shape, decode):
    made = plan(gibibytes, work, shape, decode=decode)
    assert made.fits == (made.memory.peak_bytes <= made.available_bytes) == (not made.advice)
    assert made.available_bytes < gibibytes * GIB
    assert 1 <= made.batch <= max(1, made.chunk_count)
    assert 1 <= made.pixels_at_once / work.size_px**2 <= made.batch * made.chunk_length


@given(sizes=st.tuples(CARDS, CARDS), work=WORKS, shape=MODELS, decode=DECODES)
def test_more_memory_never_reads_in_smaller_numbers_shorter_chunks_or_fewer_rows(sizes, work, shape, decode):
    smaller, larger = (plan(size, work, shape, decode=decode) for size in sorted(sizes))
    assert _rank(smaller) <= _rank(larger)


def _rank(made: Plan) -> tuple[int, int, int]:
    """What is read at once, the most valued first."""
    return (["nf4", "int8", "bf16"].index(made.precision), made.chunk_length, made.batch)


def test_a_second_look_is_told_for_one_finding_and_changes_nothing_else():
    without = plan(80)
    looking = plan(80, replace(CT_300, look_tokens=640, look_vision_tokens=432))
    assert (without.look_tokens, without.look_seconds) == (0, 0.0)
    assert looking.look_tokens == 640
    assert 0 < looking.look_seconds < looking.seconds / looking.chunk_count
    assert replace(looking, look_tokens=0, look_seconds=0.0) == without


def test_planning_imports_no_torch():
    code = "import sys, medvl.planning.plan, medvl.planning.device; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
