from __future__ import annotations

import pytest

import medvl.reader.identity
from medvl.reader.identity import Sampling, expect_precision, identify_reader
from medvl.reader.qwen import load_qwen_reader
from medvl.reader.weights import ModelLocation


def test_greedy_and_sampled_replies_are_told_apart() -> None:
    assert Sampling().description == "greedy"
    assert Sampling(0.7, seed=3).description == "sampled: temperature 0.7, top-p 0.8, top-k 20, seed 3"


def test_what_is_foretold_is_what_loads(tiny: ModelLocation) -> None:
    reader = load_qwen_reader(tiny, "auto", sampling=Sampling(0.7))
    foretold = identify_reader(tiny, expect_precision("auto"), Sampling(0.7), device=reader.identity.device)
    assert foretold == reader.identity


@pytest.mark.parametrize(
    ("version", "expected"), [("0.50.2", "int8"), ("1.0", "int8"), ("0.49.1", "bf16"), ("", "bf16")]
)
def test_auto_foretells_int8_from_bitsandbytes_0_50_on(
    monkeypatch: pytest.MonkeyPatch, version: str, expected: str
) -> None:
    monkeypatch.setattr(medvl.reader.identity, "_installed", lambda _: version)
    assert expect_precision("auto") == expected


def test_what_was_asked_for_is_foretold_as_it_is() -> None:
    assert expect_precision("nf4") == "nf4"


def test_a_package_that_is_not_there_has_no_version(tiny: ModelLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medvl.reader.identity, "_PACKAGES", ("torch", "no-such-package"))
    assert [name for name, _ in identify_reader(tiny, "fp32", Sampling()).versions] == ["torch"]
