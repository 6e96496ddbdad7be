"""The kernels between the products against plain torch: -m gpu, on a card or with TRITON_INTERPRET=1."""

import pytest
import torch

from medvl.reader.engine import ops
from tests.reader.engine.cards import close, device, draw, dtype, poisoned, settle

__all__ = ["device", "draw", "dtype"]  # fixtures

pytestmark = pytest.mark.gpu
kernels = pytest.importorskip("medvl.reader.engine.kernels", reason="Triton is not installed", exc_type=ImportError)

EPSILON = 1e-6


@pytest.mark.parametrize(("rows", "width"), [(1, 4096), (33, 4096), (5, 200)])
def test_rows_are_divided_by_their_root_mean_square(draw, device, dtype, rows, width):
    x, weight = draw(rows, width, dtype=dtype), draw(width, dtype=dtype)
    out = poisoned(rows, width, like=x)
    settle(device)
    kernels.rms_norm(x, weight, out, EPSILON)
    close(out, ops.rms_norm(x.double().cpu(), weight.double().cpu(), EPSILON))


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize(("rows", "width"), [(1, 4096), (31, 320)])
def test_summands_and_residual_are_added_before_the_norm(draw, device, dtype, rows, width, parts):
    x, residual, weight = draw(parts, rows, width), draw(rows, width, dtype=dtype), draw(width, dtype=dtype)
    normed, added = poisoned(rows, width, like=residual), poisoned(rows, width, like=residual)
    settle(device)
    kernels.add_rms_norm(x, residual, weight, normed, added, EPSILON)
    total = x.double().cpu().sum(0) + residual.double().cpu()
    close(added, total)
    close(normed, ops.rms_norm(total, weight.double().cpu(), EPSILON))


@pytest.mark.parametrize(("rows", "width"), [(1, 12288), (30, 100)])
def test_silu_of_the_gate_multiplies(draw, dtype, rows, width):
    gate_up = draw(rows, 2 * width, dtype=dtype)
    out = poisoned(rows, width, like=gate_up)
    kernels.silu_mul(gate_up, out)
    close(out, ops.silu_mul(gate_up.double().cpu()))


@pytest.mark.parametrize(("heads", "dim"), [(16, 72), (2, 64), (3, 16)])
def test_queries_and_keys_of_patches_are_rotated_by_their_places(draw, device, dtype, heads, dim):
    qkv, angle = draw(2, 5, 3, heads, dim, dtype=dtype), draw(5, dim // 2)
    turned = poisoned(2, 5, 2, heads, dim, like=qkv)
    settle(device)
    kernels.rotate_patches(qkv, angle.cos(), angle.sin(), turned)
    close(turned, ops.rotate_patches(qkv.double().cpu(), angle.cos().double().cpu(), angle.sin().double().cpu()))


@pytest.mark.parametrize(("heads", "kv", "dim"), [(32, 8, 128), (4, 2, 16), (3, 1, 32)])
@pytest.mark.parametrize("tokens", [1, 7])
def test_keys_and_values_go_to_their_places(draw, device, dtype, tokens, heads, kv, dim):
    slots, length = 9, 13
    qkv = draw(tokens, (heads + 2 * kv) * dim, dtype=dtype)
    q_norm, k_norm = draw(dim, dtype=dtype), draw(dim, dtype=dtype)
    angle = draw(tokens, dim // 2)
    cosine, sine = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    slot = torch.randperm(slots)[:tokens].to(device)
    place = torch.randint(length, (tokens,)).to(device)
    keys, values = (poisoned(slots, kv, length, dim, like=qkv) for _ in range(2))
    queries = poisoned(tokens, heads, dim, like=qkv)
    settle(device)
    kernels.store_rotated(qkv, (q_norm, k_norm), EPSILON, (cosine, sine), keys, values, slot, place, queries)
    plain_keys, plain_values = (torch.full(keys.shape, torch.nan, dtype=torch.float64) for _ in range(2))
    wide = [tensor.double().cpu() for tensor in (qkv, q_norm, k_norm, cosine, sine)]
    plain = ops.store_rotated(*wide[:3], EPSILON, *wide[3:], plain_keys, plain_values, slot.cpu(), place.cpu())
    close(queries, plain)
    for found, expected in ((keys, plain_keys), (values, plain_values)):
        assert (found.isnan().cpu() == expected.isnan()).all(), "exactly the places of the tokens are written"
        close(found.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize(("heads", "kv", "dim"), [(32, 8, 128), (2, 2, 16)])
@pytest.mark.parametrize("span", [64, 128])
def test_a_token_attends_to_its_own_slot_as_far_as_it_is_filled(draw, device, dtype, heads, kv, dim, span):
    lengths = torch.tensor([0, 1, 63, 64, 65, 129, 301], device=device)
    slots, length = len(lengths), 301
    queries = draw(slots, heads, dim, dtype=dtype)
    keys, values = (draw(slots, kv, length, dim, dtype=dtype) for _ in range(2))
    for slot, filled in enumerate(lengths.tolist()):
        keys[slot, :, filled:] = values[slot, :, filled:] = torch.nan
    out = poisoned(slots, heads * dim, like=queries)
    kernels.decode_attention(queries, keys, values, lengths, out, kernels.Cut(span, 64, 4, 3))
    wide = [tensor.double().cpu().nan_to_num() for tensor in (queries, keys, values)]
    close(out, ops.decode_attention(*wide, lengths.cpu()))
    assert (out[0] == 0).all()


def test_attention_of_a_slot_does_not_depend_on_the_others(draw, device, dtype):
    heads, kv, dim, length = 8, 2, 64, 200
    queries = draw(5, heads, dim, dtype=dtype)
    keys, values = (draw(5, kv, length, dim, dtype=dtype) for _ in range(2))
    results = []
    for others in (0, 77, 200):
        lengths = torch.full((5,), others, device=device)
        lengths[3] = 131
        out = poisoned(5, heads * dim, like=queries)
        kernels.decode_attention(queries, keys, values, lengths, out, kernels.Cut(64, 64, 4, 3))
        results.append(out[3].cpu())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def pack(allowed):
    """Pack booleans (m, vocab) into bits (m, words) int32, lowest first."""
    rows, vocab = allowed.shape
    padded = torch.zeros(rows, -(-vocab // 32) * 32, dtype=torch.int64)
    padded[:, :vocab] = allowed
    words = (padded.view(rows, -1, 32) << torch.arange(32)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


@pytest.mark.parametrize("vocab", [151936, 333, 4097])
def test_the_likeliest_allowed_token_is_chosen(draw, device, vocab):
    logits = draw(7, vocab)
    allowed = torch.rand(7, vocab) < 0.3
    allowed[2] = torch.arange(vocab) == vocab - 1
    expected = ops.choose(logits.cpu(), pack(allowed))
    token, probability = torch.full((7,), -1, device=device), poisoned(7, like=logits)
    kernels.choose(logits, pack(allowed).to(device), token, probability)
    assert token.tolist() == expected[0].tolist()
    assert token[2] == vocab - 1
    torch.testing.assert_close(probability.cpu(), expected[1], rtol=1e-4, atol=1e-7)


def test_the_first_of_equals_is_chosen_and_an_empty_mask_gives_token_0(device):
    logits = torch.zeros(3, 9000, device=device)
    logits[:, [31, 5000, 8999]] = 2.0
    allowed = torch.ones(3, 9000, dtype=torch.bool)
    allowed[1, :32] = False
    allowed[2] = False
    token, probability = torch.full((3,), -1, device=device), poisoned(3, like=logits)
    kernels.choose(logits, pack(allowed).to(device), token, probability)
    assert token.tolist() == [31, 5000, 0]
    assert probability[2].isnan()


@pytest.mark.parametrize("place", [0, 8999])
def test_a_logit_that_is_no_number_makes_its_rows_probability_none(device, place):
    logits = torch.zeros(2, 9000, device=device)
    logits[0, place] = torch.nan
    token, probability = torch.full((2,), -1, device=device), poisoned(2, like=logits)
    kernels.choose(logits, pack(torch.ones(2, 9000, dtype=torch.bool)).to(device), token, probability)
    assert probability.isnan().tolist() == [True, False]
