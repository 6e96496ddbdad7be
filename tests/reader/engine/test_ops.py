import pytest
import torch
from torch.nn import functional as F
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextMLP, Qwen3VLTextRMSNorm, apply_rotary_pos_emb

from medvl.reader.engine import ops
from medvl.reader.engine.matrix import Matrix

EPSILON = 1e-6


def stock_norm(width):
    norm = Qwen3VLTextRMSNorm(width, EPSILON)
    norm.weight.data = torch.rand(width)
    return norm


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_norm_is_the_stock_models():
    norm, x = stock_norm(24), torch.randn(5, 24)
    close(ops.rms_norm(x, norm.weight, EPSILON), norm(x))


def test_the_residual_is_added_before_the_norm():
    norm, x, residual = stock_norm(24), torch.randn(5, 24), torch.randn(5, 24)
    normed, added = ops.add_rms_norm(x, residual, norm.weight, EPSILON)
    close(added, x + residual)
    close(normed, norm(x + residual))


def test_the_product_is_added_to_the_residual_before_the_norm():
    layer = torch.nn.Linear(16, 24, bias=False)
    norm, x, residual = stock_norm(24), torch.randn(5, 16), torch.randn(5, 24)
    matrix = Matrix.from_linears([layer])
    normed, added = ops.multiply_add_rms_norm(matrix, x, residual, norm.weight, EPSILON)
    close(added, layer(x) + residual)
    close(normed, norm(layer(x) + residual))


def test_gate_and_up_go_before_down_as_in_the_stock_mlp():
    mlp, x = Qwen3VLTextMLP(Qwen3VLTextConfig(hidden_size=24, intermediate_size=40)), torch.randn(5, 24)
    expected = mlp(x)
    gate_up, down = Matrix.from_linears([mlp.gate_proj, mlp.up_proj]), Matrix.from_linears([mlp.down_proj])
    close(down.multiply(ops.multiply_gated(gate_up, x)), expected)


def test_queries_and_keys_are_normed_and_rotated_as_in_the_stock_model():
    heads, kv, dim, tokens = 6, 2, 16, 3
    q_norm, k_norm = stock_norm(dim), stock_norm(dim)
    qkv, angle = torch.randn(tokens, (heads + 2 * kv) * dim), torch.randn(tokens, dim // 2).repeat(1, 2)
    keys, values = torch.zeros(4, kv, 9, dim), torch.zeros(4, kv, 9, dim)
    slot, place = torch.tensor([3, 0, 3]), torch.tensor([8, 0, 7])
    cosine, sine = angle.cos(), angle.sin()
    q = ops.store_rotated(qkv, q_norm.weight, k_norm.weight, EPSILON, cosine, sine, keys, values, slot, place)
    query, key, value = qkv.view(tokens, -1, dim).split([heads, kv, kv], 1)
    stock_q, stock_k = apply_rotary_pos_emb(q_norm(query), k_norm(key), cosine, sine)
    close(q, stock_q)
    for token, (row, column) in enumerate([(3, 8), (0, 0), (3, 7)]):
        close(keys[row, :, column], stock_k[token])
        close(values[row, :, column], value[token])
    assert values.count_nonzero() == value.numel()


def test_a_token_attends_as_far_as_its_slot_is_filled():
    heads, kv, dim = 6, 2, 8
    q, keys, values = torch.randn(3, heads, dim), torch.randn(3, kv, 7, dim), torch.randn(3, kv, 7, dim)
    found = ops.decode_attention(q, keys, values, torch.tensor([7, 0, 2]))
    for slot, length in ((0, 7), (2, 2)):
        seen = keys[slot, :, :length], values[slot, :, :length]
        expected = F.scaled_dot_product_attention(q[slot][:, None], *seen, enable_gqa=True)
        close(found[slot], expected.flatten())
    assert (found[1] == 0).all()


def test_the_likeliest_of_the_allowed_is_chosen_with_its_share_of_them():
    logits = torch.tensor([[0.0, 3.0, 1.0, 1.0]]).repeat(2, 10)  # 40 tokens
    logits[1, 35] = 9.0
    allowed = torch.tensor([[0b1101, 0], [0b0011, 0b1000]], dtype=torch.int32)  # 0, 2, 3; 0, 1, 35
    token, probability = ops.choose(logits, allowed)
    assert token.tolist() == [2, 35]
    e = torch.tensor(1.0).exp()
    shares = torch.stack([e / (1 + 2 * e), e**9 / (1 + e**3 + e**9)])
    torch.testing.assert_close(probability, shares)


def test_the_highest_bit_of_a_word_allows_its_token():
    allowed = torch.tensor([[-(1 << 31), 0]], dtype=torch.int32)
    token, probability = ops.choose(torch.randn(1, 40), allowed)
    assert token.tolist() == [31]
    assert probability.tolist() == [1.0]


@pytest.mark.parametrize(("logit", "mask"), [(1.0, 0), (torch.nan, -1), (-torch.inf, -1)])
def test_where_there_is_nothing_to_choose_the_probability_is_no_number(logit, mask):
    _, probability = ops.choose(torch.full((1, 40), logit), torch.full((1, 2), mask, dtype=torch.int32))
    assert probability.isnan().all()


def test_one_logit_that_is_no_number_spoils_its_row_alone():
    logits = torch.zeros(2, 40)
    logits[0, 7] = torch.nan
    _, probability = ops.choose(logits, torch.full((2, 2), -1, dtype=torch.int32))
    assert probability.isnan().tolist() == [True, False]


# --- on a card -------------------------------------------------------------------------------------------------------

card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def random_matrix(kind, n, k):
    """A matrix of this kind on the card."""
    if kind == "dense":
        return Matrix("dense", torch.randn(n, k, device="cuda", dtype=torch.bfloat16), None, (n, k))
    if kind == "int8":
        values = torch.randint(-127, 128, (n, k), dtype=torch.int8, device="cuda")
        return Matrix("int8", values, torch.rand(n, device="cuda") / 100, (n, k))
    packed = torch.randint(256, (n * k // 2,), device="cuda").to(torch.uint8)
    scales = torch.rand(n * k // 64, device="cuda")
    return Matrix("nf4", packed, scales, (n, k), tuple(torch.linspace(-1, 1, 16).tolist()))


def plain(matrix):
    """The same weights on the CPU, in float32."""
    scales = None if matrix.scales is None else matrix.scales.cpu()
    return Matrix(matrix.kind, matrix.values.cpu(), scales, matrix.shape, matrix.code)


def near(found, expected):
    share = (found.cpu().double() - expected.double()).norm() / expected.double().norm()
    assert share < 1e-2


@card
@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["dense", "int8", "nf4"])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16, 30, 33, 64, 65, 300])
def test_few_rows_and_many_give_the_product(kind, rows):
    matrix, x = random_matrix(kind, 512, 1024), torch.randn(rows, 1024, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    near(matrix.multiply(x), plain(matrix).multiply(x.cpu().float()))


@card
@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["dense", "int8", "nf4"])
@pytest.mark.parametrize("rows", [1, 5, 30, 70])
def test_fused_products_are_those_of_the_cpu(kind, rows):
    gate_up, down = random_matrix(kind, 2 * 640, 512), random_matrix(kind, 512, 640)
    x, residual = (torch.randn(rows, 512, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    norm = torch.rand(512, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    inner = ops.multiply_gated(gate_up, x)
    near(inner, ops.multiply_gated(plain(gate_up), x.cpu().float()))
    found = ops.multiply_add_rms_norm(down, inner, residual, norm, EPSILON)
    wide = [tensor.cpu().float() for tensor in (inner, residual, norm)]
    for mine, expected in zip(found, ops.multiply_add_rms_norm(plain(down), *wide, EPSILON), strict=True):
        near(mine, expected)


@card
@pytest.mark.gpu
def test_a_captured_step_gives_the_same_bits_as_an_eager_one():
    """Kernels overlap in a graph: a missing wait would show here."""
    matrices = [random_matrix("int8", 512, 512) for _ in range(8)]
    norm = torch.rand(512, device="cuda", dtype=torch.bfloat16)
    start = torch.randn(5, 512, device="cuda", dtype=torch.bfloat16)

    def step():
        x, normed = start, ops.rms_norm(start, norm, EPSILON)
        for matrix in matrices:
            normed, x = ops.multiply_add_rms_norm(matrix, normed, x, norm, EPSILON)
        return x

    eager = step().clone()
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(20):
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(captured, eager)
