"""What tests of kernels share: a card, or Triton's interpreter in its place, and tensors there."""

import os

import pytest
import torch


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request):
    return request.param


@pytest.fixture
def device():
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1")


@pytest.fixture
def draw(device):
    """Random tensors on the device; two with the same shape differ."""
    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))

    def draw(*shape, dtype=torch.float32):
        return torch.randn(shape).to(device, dtype)

    return draw


def poisoned(*shape, like, dtype=None):
    return torch.full(shape, torch.nan, dtype=dtype or like.dtype, device=like.device)


def settle(device):
    """Weights may be fetched before the kernel that wrote them has ended; real ones were written long ago."""
    if device == "cuda":
        torch.cuda.synchronize()


def close(found, expected):
    """Compare with a result in float64: within rounding of the type, on the whole and at the worst place."""
    expected = expected.double().cpu()
    share = (found.double().cpu() - expected).norm() / expected.norm().clamp(min=1e-9)
    assert share <= (1e-2 if found.dtype == torch.bfloat16 else 1e-5)
