from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn

from medvl.errors import ModelError, PrecisionError
from medvl.reader.precision import check_precision, choose_precision
from medvl.reader.qwen import QwenReader
from medvl.settings import Precision

CPU = torch.device("cpu")
Load = Callable[[Precision], QwenReader]


@pytest.mark.parametrize(("precision", "kind"), [("int8", Linear8bitLt), ("nf4", Linear4bit)])
def test_exactly_the_text_models_linear_layers_are_quantised(load_tiny: Load, precision: Precision, kind: type) -> None:
    model = load_tiny(precision)._model
    quantised = {name for name, module in model.named_modules() if isinstance(module, kind)}
    # 4 layers of query, key, value, output, gate, up, down
    assert len(quantised) == 4 * 7
    assert all(name.startswith("model.language_model.layers.") for name in quantised)


def test_int8_weights_are_really_one_byte_each(load_tiny: Load) -> None:
    weight = load_tiny("int8")._model.model.language_model.layers[0].mlp.gate_proj.weight
    assert (weight.dtype, weight.numel()) == (torch.int8, 128 * 384)


def test_the_output_matrix_stays_tied_to_the_embedding(load_tiny: Load) -> None:
    model = load_tiny("int8")._model
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert model.lm_head.weight.is_floating_point()


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_plain_precisions_keep_every_weight_as_asked(load_tiny: Load, precision: Precision, dtype: torch.dtype) -> None:
    assert {weight.dtype for weight in load_tiny(precision)._model.parameters()} == {dtype}


def make_model(text: nn.Module, vision: nn.Module, head: nn.Module) -> nn.Module:
    body = nn.ModuleDict({"language_model": nn.ModuleDict({"up": text}), "visual": nn.ModuleDict({"qkv": vision})})
    return nn.ModuleDict({"model": body, "lm_head": head})


def plain() -> nn.Module:
    return nn.Linear(8, 8)


def eight_bit() -> nn.Module:
    return Linear8bitLt(8, 8, has_fp16_weights=False)


@pytest.mark.parametrize(
    ("model", "precision", "named"),
    [
        (make_model(plain(), plain(), plain()), "int8", "model.language_model.up did not load as int8"),
        (make_model(eight_bit(), eight_bit(), plain()), "int8", "model.visual.qkv did not"),
        (make_model(eight_bit(), plain(), eight_bit()), "int8", "lm_head did not"),
        (make_model(eight_bit(), plain(), plain()), "nf4", "model.language_model.up did not load as nf4"),
        (make_model(eight_bit(), plain(), plain()), "bf16", "model.language_model.up did not load as bf16"),
    ],
)
def test_a_layer_of_the_wrong_kind_is_named(model: nn.Module, precision: str, named: str) -> None:
    with pytest.raises(ModelError, match=named):
        check_precision(model, precision)  # type: ignore[arg-type]


def test_many_wrong_layers_are_counted_not_listed() -> None:
    with pytest.raises(ModelError, match=r"0, 1, 2, 3 and 5 more did not"):
        check_precision(nn.ModuleList(plain() for _ in range(9)), "int8")


def test_auto_is_int8_where_bitsandbytes_works() -> None:
    choice = choose_precision("auto", CPU)
    assert (choice.precision, choice.reason) == ("int8", "bitsandbytes works on cpu; half the memory of bf16")


def test_auto_is_bf16_with_the_reason_where_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # importing it now fails
    choice = choose_precision("auto", CPU)
    assert choice.precision == "bf16"
    assert choice.reason.startswith("bitsandbytes does not work on cpu: import of bitsandbytes halted")


@pytest.mark.parametrize("asked", ["int8", "nf4"])
def test_what_was_asked_for_and_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch, asked: Precision) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(PrecisionError, match=f"{asked} weights need it"):
        choose_precision(asked, CPU)


def test_a_library_that_is_there_but_broken_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def multiply(self: Linear8bitLt, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel image is available\nfor execution on the device")

    monkeypatch.setattr(Linear8bitLt, "forward", multiply)
    choice = choose_precision("auto", CPU)
    assert choice.precision == "bf16"
    assert choice.reason == "bitsandbytes does not work on cpu: no kernel image is available"
    with pytest.raises(PrecisionError, match=r"^bitsandbytes does not work on cpu: no kernel image is available\."):
        choose_precision("int8", CPU)


def test_bf16_and_fp32_do_not_ask_for_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert choose_precision("bf16", CPU).precision == "bf16"
    assert choose_precision("fp32", CPU).precision == "fp32"
