from __future__ import annotations

import pytest

import medvl.reader.identity
from medvl.reader.identity import Sampling, identify_reader
from medvl.reader.qwen import load_qwen_reader
from medvl.reader.weights import ModelLocation


def test_greedy_and_sampled_replies_are_told_apart() -> None:
    assert Sampling().description == "greedy"
    assert Sampling(0.7, seed=3).description == "sampled: temperature 0.7, top-p 0.8, top-k 20, seed 3"


def test_what_is_foretold_is_what_loads(tiny: ModelLocation) -> None:
    reader = load_qwen_reader(tiny, "int8", sampling=Sampling(0.7))
    foretold = identify_reader(tiny, "int8", Sampling(0.7), device=reader.identity.device)
    assert foretold == reader.identity


def test_a_package_that_is_not_there_has_no_version(tiny: ModelLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medvl.reader.identity, "_PACKAGES", ("torch", "no-such-package"))
    assert [name for name, _ in identify_reader(tiny, "fp32", Sampling()).versions] == ["torch"]
