"""The engine against the stock path, through the whole reader, on a CPU."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

import medvl.reader.engine.decoder
from medvl.errors import ModelError, OutOfMemoryError
from medvl.reader.decoding import Limits
from medvl.reader.engine.text import why_not
from medvl.reader.identity import Sampling
from medvl.reader.qwen import QwenReader, load_qwen_reader
from medvl.reader.weights import ModelLocation
from medvl.records import Reading, Request
from medvl.settings import Decode, Precision
from tests.reader.requests import make_request, read

Load = Callable[[Precision], QwenReader]
MIXED = [
    make_request(3),
    make_request(1, size_px=128, text="Chest.", cap=7),
    make_request(0, text="No picture at all."),
    make_request(2, size_px=96, seed=7, schema=None, cap=9),
    make_request(1, seed=3),
]


@pytest.fixture(scope="module")
def engine(tiny: ModelLocation) -> QwenReader:
    return load_qwen_reader(tiny, "fp32", decode="engine")


def same_words(reading: Reading) -> tuple[str, bool, int]:
    return reading.text, reading.complete, reading.prompt_token_count


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_engine_replies_as_stock_transformers_does(load_tiny: Load, engine: QwenReader, rows: int) -> None:
    expected = read(load_tiny("fp32"), MIXED, 1)
    found = read(engine, MIXED, rows)
    assert [same_words(reading) for reading in found] == [same_words(reading) for reading in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert [t.probability for t in ours.tokens] == pytest.approx([t.probability for t in theirs.tokens], abs=1e-4)


@pytest.mark.parametrize("precision", ["int8", "nf4", "bf16"])
def test_every_precision_goes_through_the_engine(tiny: ModelLocation, precision: Precision) -> None:
    reader = load_qwen_reader(tiny, precision, decode="engine")
    assert reader.identity.decode == "engine"
    assert [reading.complete for reading in read(reader, [make_request(2, cap=400)] * 2, 2)] == [True, True]


def test_stock_still_writes_the_same_after_the_engine_took_the_weights(tiny: ModelLocation, load_tiny: Load) -> None:
    reader = load_qwen_reader(tiny, "int8", decode="engine")
    stock = load_tiny("int8")
    stock._writer._model, untouched = reader._model, stock._writer._model  # type: ignore[attr-defined]
    shared = read(stock, MIXED[:2], 1)
    stock._writer._model = untouched  # type: ignore[attr-defined]
    assert [same_words(each) for each in shared] == [same_words(each) for each in read(stock, MIXED[:2], 1)]


def test_requests_are_drawn_only_as_slots_become_free(engine: QwenReader) -> None:
    drawn: list[int] = []

    def requests() -> Iterator[Request]:
        for number in range(5):
            drawn.append(number)
            yield make_request(1, seed=number, cap=5)

    answers = engine.read(requests(), 2)
    next(answers)
    assert drawn == [0, 1]
    assert len(list(answers)) == 4
    assert drawn == [0, 1, 2, 3, 4]


def test_an_ended_reply_leaves_while_others_are_still_written(engine: QwenReader) -> None:
    requests = [make_request(1, cap=200), make_request(1, seed=1, cap=3), make_request(1, seed=2, cap=3)]
    assert [number for number, _ in engine.read(requests, 2)] == [1, 2, 0]


def test_a_request_longer_than_the_slots_waits_for_longer_ones(engine: QwenReader, load_tiny: Load) -> None:
    requests = [make_request(1, cap=5), make_request(0, text="word " * 700, cap=5), make_request(1, seed=2, cap=5)]
    expected = read(load_tiny("fp32"), requests, 1)
    assert [same_words(each) for each in read(engine, requests, 3)] == [same_words(each) for each in expected]


def test_a_drawn_reply_depends_on_the_seed_and_not_on_its_neighbours(tiny: ModelLocation) -> None:
    hot = Sampling(temperature=2.0, top_p=1.0, top_k=50)
    reader = load_qwen_reader(tiny, "fp32", sampling=hot, decode="engine")
    alone = [read(reader, [request], 3)[0].text for request in MIXED]
    assert [reading.text for reading in read(reader, MIXED, 3)] == alone
    other = load_qwen_reader(tiny, "fp32", sampling=replace(hot, seed=1), decode="engine")
    assert [reading.text for reading in read(other, MIXED, 3)] != alone


def test_seconds_add_up_to_the_time_it_took_without_what_the_caller_does(engine: QwenReader) -> None:
    spent = 0.0
    readings, start = [], time.perf_counter()
    for _, reading in engine.read(MIXED, 2):
        readings.append(reading)
        pause = time.perf_counter()
        time.sleep(0.2)
        spent += time.perf_counter() - pause
    took = time.perf_counter() - start - spent
    assert sum(reading.seconds for reading in readings) == pytest.approx(took, rel=0.05, abs=0.02)


def test_an_engine_serves_one_call_at_a_time_and_the_next_one_after_it_ends(engine: QwenReader) -> None:
    first = engine.read(MIXED[:3], 2)
    next(first)
    with pytest.raises(ValueError, match="still writing"):
        next(engine.read(MIXED[:1], 2))
    first.close()  # type: ignore[attr-defined]  # a generator
    assert read(engine, MIXED[:1], 2)[0].complete


@pytest.mark.parametrize("decode", ["engine", "stock"])
def test_weights_that_are_no_numbers_are_an_error_not_an_empty_report(tiny: ModelLocation, decode: Decode) -> None:
    reader = load_qwen_reader(tiny, "fp32", decode=decode)
    with torch.no_grad():
        reader._model.model.language_model.norm.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="chooses nothing"):
        read(reader, MIXED[:1], 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_act": "gelu"}, "use gelu, not silu"),
        ({"attention_bias": True}, "biases"),
        ({"head_dim": 96}, "96 wide"),
    ],
)
def test_what_the_engine_does_not_know_is_left_to_stock(
    tiny: ModelLocation, change: dict[str, Any], reason: str
) -> None:
    config = AutoConfig.from_pretrained(tiny.folder)
    assert why_not(config) == ""
    for name, value in change.items():
        setattr(config.text_config, name, value)
    assert reason in why_not(config)


def test_asking_for_the_engine_by_name_says_why_it_cannot(tiny_copy: Path) -> None:
    config = json.loads((tiny_copy / "config.json").read_text())
    config["text_config"]["hidden_act"] = "gelu"
    (tiny_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot run this model here: its text layers use gelu"):
        load_qwen_reader(ModelLocation("other", tiny_copy, "folder"), "fp32", decode="engine")


def test_other_bounds_empty_the_cache_and_change_no_reply(engine: QwenReader) -> None:
    before = [same_words(each) for each in read(engine, MIXED, 2)]
    engine.limit(Limits(pixels_at_once=128 * 128, kept_on_device_bytes=0))
    assert [same_words(each) for each in read(engine, MIXED, 2)] == before
    engine.limit(Limits())


def test_memory_that_runs_out_midway_keeps_what_was_written(
    engine: QwenReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    advance = medvl.reader.engine.decoder.Decoder.advance

    def exhausted(self: medvl.reader.engine.decoder.Decoder) -> None:
        nonlocal steps
        steps += 1
        if steps > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        advance(self)

    monkeypatch.setattr(medvl.reader.engine.decoder.Decoder, "advance", exhausted)
    answers = engine.read([make_request(1, cap=3), make_request(1, seed=1, cap=300)], 2)
    assert next(answers)[0] == 0
    with pytest.raises(OutOfMemoryError, match="2 requests at once did not fit"):
        next(answers)
    monkeypatch.undo()
    assert read(engine, MIXED[:1], 2)[0].complete
