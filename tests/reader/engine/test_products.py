"""The products with few rows against float64: -m gpu, on a card or with TRITON_INTERPRET=1."""

import pytest
import torch
from torch.nn import functional as F

from tests.reader.engine.cards import close, device, draw, dtype, poisoned, settle

__all__ = ["device", "draw", "dtype"]  # fixtures

pytestmark = pytest.mark.gpu
products = pytest.importorskip("medvl.reader.engine.products", reason="Triton is not installed", exc_type=ImportError)

ROWS = [1, 2, 5, 16, 17, 33]
SHAPES = [(192, 512), (100, 320), (40, 48)]


def int8_weights(n, k, device):
    values = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    return values.to(device), (torch.rand(n) + 0.5).to(device)


def product(x, weight, scale, parts=1, gated=False, dtype=None):
    n, k = weight.shape[0] // (2 if gated else 1), weight.shape[1]
    tiles = products.choose_tiles(len(x), n, k, weight.element_size(), gated=gated, whole=True)
    out = poisoned(parts, len(x), n, like=x, dtype=dtype)
    products.multiply(x, weight, scale, out, tiles._replace(parts=parts), gated=gated)
    return out


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_weights_are_multiplied_as_they_are_kept(draw, device, dtype, rows, shape):
    weight, scale = int8_weights(*shape, device)
    x = draw(rows, shape[1], dtype=dtype)
    settle(device)
    wide = weight.double() * scale.double()[:, None]
    close(product(x, weight, scale)[0], F.linear(x.double(), wide))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense_weights_give_logits_in_float32(draw, device, dtype, rows, shape):
    weight, x = draw(*shape, dtype=dtype), draw(rows, shape[1], dtype=dtype)
    settle(device)
    close(product(x, weight, None, dtype=torch.float32)[0], F.linear(x.double(), weight.double()))


@pytest.mark.parametrize("rows", ROWS)
def test_gate_and_up_are_joined(draw, device, dtype, rows):
    weight, scale = int8_weights(2 * 72, 512, device)
    x, scale = draw(rows, 512, dtype=dtype), scale / 500
    settle(device)
    gate, up = F.linear(x.double(), weight.double() * scale.double()[:, None]).chunk(2, -1)
    close(product(x, weight, scale, gated=True)[0], F.silu(gate) * up)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize(("n", "k"), [(64, 1024), (64, 640)])
def test_parts_sum_to_the_product(draw, device, dtype, parts, n, k):
    weight, scale = int8_weights(n, k, device)
    x = draw(6, k, dtype=dtype)
    settle(device)
    summands = product(x, weight, scale, parts, dtype=torch.float32)
    close(summands.sum(0), F.linear(x.double(), weight.double() * scale.double()[:, None]))


@pytest.mark.parametrize("rows", [2, 16, 17, 32])
def test_a_row_has_the_same_bits_alone_and_among_others(draw, device, dtype, rows):
    weight, scale = int8_weights(192, 512, device)
    x = draw(rows, 512, dtype=dtype)
    alone = torch.zeros_like(x)
    alone[-1] = x[-1]
    settle(device)
    assert torch.equal(product(x, weight, scale)[0, -1], product(alone, weight, scale)[0, -1])


def test_a_row_has_the_same_bits_in_every_bucket(draw, device, dtype):
    weight, scale = int8_weights(192, 512, device)
    x = draw(64, 512, dtype=dtype)
    settle(device)
    results = [product(x[:rows].contiguous(), weight, scale)[0, 0].cpu() for rows in (2, 16, 30, 64)]
    assert all(torch.equal(results[0], result) for result in results)


def nf4_weights(n, k, device):
    """Packed weights with their block sizes and code, and what they stand for."""
    numbers = torch.randint(16, (n * k,))
    packed = (numbers[0::2] << 4 | numbers[1::2]).to(torch.uint8)
    absmax, code = torch.rand(n * k // 64) + 0.5, torch.linspace(-1, 1, 16)
    wide = (code[numbers].view(-1, 64) * absmax[:, None]).view(n, k)
    return packed.to(device), absmax.to(device), tuple(code.tolist()), wide


@pytest.mark.parametrize("rows", [1, 5, 33])
@pytest.mark.parametrize(("n", "k"), [(96, 256), (50, 320)])
def test_nf4_weights_are_multiplied_as_they_are_kept(draw, device, dtype, rows, n, k):
    *weights, wide = nf4_weights(n, k, device)
    x = draw(rows, k, dtype=dtype)
    out = poisoned(rows, n, like=x)
    settle(device)
    products.multiply_few_nf4(x, *weights, out)
    close(out, F.linear(x.double().cpu(), wide.double()))


@pytest.mark.parametrize(("n", "k"), [(10, 64), (7, 5000)])
def test_int8_weights_are_widened(draw, device, dtype, n, k):
    weight, scale = int8_weights(n, k, device)
    out = poisoned(n, k, like=draw(1, dtype=dtype))
    settle(device)
    products.widen_int8(weight, scale, out)
    assert torch.equal(out, (weight.float() * scale[:, None]).to(dtype))


@pytest.mark.parametrize(("n", "k"), [(10, 64), (33, 256)])
def test_nf4_weights_are_widened(draw, device, dtype, n, k):
    *weights, wide = nf4_weights(n, k, device)
    out = poisoned(n, k, like=draw(1, dtype=dtype))
    settle(device)
    products.widen_nf4(*weights, out)
    assert torch.equal(out.cpu(), wide.to(dtype))
