import copy

import bitsandbytes as bnb
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medvl.reader.engine.matrix import Matrix

INPUTS = 64


def linear(outputs):
    return nn.Linear(INPUTS, outputs, bias=False)


def int8(outputs):
    layer = bnb.nn.Linear8bitLt(INPUTS, outputs, bias=False, has_fp16_weights=False, threshold=6.0)
    return layer.to("cpu").eval().requires_grad_(False)


def nf4(outputs, *, nested=False):
    layer = bnb.nn.Linear4bit(
        INPUTS, outputs, bias=False, compute_dtype=torch.float32, compress_statistics=nested, quant_type="nf4"
    )
    return layer.to("cpu").eval().requires_grad_(False)


def nested_nf4(outputs):
    return nf4(outputs, nested=True)


def plain_weights(layer):
    """The weights a layer stands for, as its own library gives them."""
    if isinstance(layer, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    if isinstance(layer, bnb.nn.Linear8bitLt):
        return bnb.functional.int8_vectorwise_dequant(layer.weight.CB, layer.weight.SCB)
    return layer.weight.data


LAYERS = pytest.mark.parametrize("make", [linear, int8, nf4, nested_nf4])


@LAYERS
def test_weights_are_those_of_the_layers_in_their_order(make):
    layers = [make(32), make(64)]
    expected = torch.cat([plain_weights(layer) for layer in layers])
    matrix = Matrix.from_linears(layers)
    assert matrix.shape == (96, INPUTS)
    torch.testing.assert_close(matrix.dense(torch.float32), expected, rtol=1e-6, atol=1e-7)


@LAYERS
def test_the_product_is_that_of_the_plain_weights(make):
    layers, x = [make(32), make(64)], torch.randn(5, INPUTS)
    expected = F.linear(x, torch.cat([plain_weights(layer) for layer in layers]))
    torch.testing.assert_close(Matrix.from_linears(layers).multiply(x), expected, rtol=1e-5, atol=1e-5)


@LAYERS
def test_stacked_layers_answer_as_before(make):
    layers, x = [make(32), make(64)], torch.randn(5, INPUTS)
    expected = [copy.deepcopy(layer)(x) for layer in layers]
    Matrix.from_linears(layers)
    for layer, before in zip(layers, expected, strict=True):
        assert torch.equal(layer(x), before)
        assert torch.equal(layer(x), before), "the second time too"


@pytest.mark.parametrize("make", [linear, int8])
def test_layers_that_have_answered_can_still_be_stacked(make):
    layers, x = [make(32), make(64)], torch.randn(5, INPUTS)
    expected = torch.cat([plain_weights(layer) for layer in layers])
    before = [layer(x) for layer in layers]
    matrix = Matrix.from_linears(layers)
    torch.testing.assert_close(matrix.dense(torch.float32), expected, rtol=1e-6, atol=1e-7)
    assert all(torch.equal(layer(x), answer) for layer, answer in zip(layers, before, strict=True))


@LAYERS
def test_what_the_layers_save_stays_the_same(make):
    layers = [make(32), make(64)]
    before = [copy.deepcopy(layer.state_dict()) for layer in layers]
    Matrix.from_linears(layers)
    for layer, saved in zip(layers, before, strict=True):
        now = layer.state_dict()
        assert now.keys() == saved.keys()
        assert all(torch.equal(now[key], saved[key]) for key in saved)


@LAYERS
def test_nothing_is_held_twice(make):
    layers = [make(32), make(64)]
    matrix = Matrix.from_linears(layers)
    stacked = matrix.values.untyped_storage().data_ptr()
    assert all(layer.weight.data.untyped_storage().data_ptr() == stacked for layer in layers)
    held = [tensor for layer in layers for tensor in vars(layer.weight).values() if isinstance(tensor, torch.Tensor)]
    int8_held = [tensor for tensor in held if tensor.dtype == torch.int8]
    assert all(tensor.untyped_storage().data_ptr() == stacked for tensor in int8_held)


def test_a_single_layer_is_not_copied():
    layer = int8(32)
    place = layer.weight.CB.data_ptr()
    assert Matrix.from_linears([layer]).values.data_ptr() == place


def test_int8_weights_are_values_times_scales():
    layer = int8(2)
    layer.weight.data[:] = layer.weight.CB[:] = torch.tensor([[127], [-2]], dtype=torch.int8)
    layer.weight.SCB[:] = torch.tensor([0.5, 127.0])
    expected = torch.tensor([[0.5], [-2.0]]).expand(2, INPUTS)
    torch.testing.assert_close(Matrix.from_linears([layer]).dense(torch.float32), expected)


def test_the_first_of_two_packed_weights_is_in_the_high_half():
    layer = nf4(1)
    layer.weight.data[:] = 0x7F  # NF4's 7 is 0, its 15 is 1
    layer.weight.quant_state.absmax[:] = 3.0
    expected = torch.tensor([0.0, 3.0]).repeat(INPUTS // 2)[None]
    torch.testing.assert_close(Matrix.from_linears([layer]).dense(torch.float32), expected)


def test_the_result_comes_in_the_type_asked_for():
    matrix, x = Matrix.from_linears([linear(8)]), torch.randn(3, INPUTS)
    assert matrix.multiply(x, torch.float64).dtype == torch.float64
    assert matrix.multiply(x).dtype == torch.float32


@pytest.mark.parametrize(
    "layers", [[linear(8), int8(8)], [nn.Linear(INPUTS, 8)], [nn.Bilinear(2, 2, 2, bias=False)]], ids=str
)
def test_layers_that_cannot_be_stacked_are_refused(layers):
    with pytest.raises(ValueError, match="expected one kind, without biases"):
        Matrix.from_linears(layers)


def test_int8_layers_must_be_quantised():
    layer = bnb.nn.Linear8bitLt(INPUTS, 8, bias=False, has_fp16_weights=False)
    with pytest.raises(ValueError, match="not quantised yet"):
        Matrix.from_linears([layer])


def test_weights_that_a_cpu_packed_for_itself_are_refused():
    layer = nf4(8)
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match="packed its weights anew"):
        Matrix.from_linears([layer])


def test_4_bit_rows_that_end_inside_a_block_are_refused():
    layer = bnb.nn.Linear4bit(96, 8, bias=False, quant_type="nf4").to("cpu")
    with pytest.raises(ValueError, match="inputs of 96, whose rows end inside a block"):
        Matrix.from_linears([layer])


def test_other_codes_of_4_bits_are_refused():
    layer = bnb.nn.Linear4bit(INPUTS, 8, bias=False, quant_type="fp4").to("cpu")
    with pytest.raises(ValueError, match="not to nf4 in blocks of 64"):
        Matrix.from_linears([layer])
