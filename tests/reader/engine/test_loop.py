"""The engine against the stock path, through the whole reader, on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

import medvl.reader.engine.decoder
from medvl.errors import OutOfMemoryError
from medvl.reader.identity import Sampling
from medvl.reader.qwen import QwenReader, load_qwen_reader
from medvl.reader.weights import ModelLocation
from medvl.records import Reading, Request
from medvl.settings import Precision
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


def test_seconds_add_up_to_the_time_it_took(engine: QwenReader) -> None:
    readings = read(engine, MIXED, 2)
    assert all(reading.seconds > 0 for reading in readings)


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
