"""How long a reading takes: operations and bytes over what the card can do. Arithmetic; no torch, no clock.

An estimate of the model's own time. Loading the weights and decoding the files come on top.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from medvl.planning.device import Device
from medvl.planning.memory import DecodePath, linear_bytes, value_bytes
from medvl.planning.shape import ModelShape
from medvl.settings import Precision


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device can do at best."""

    bytes_per_s: float
    operations_per_s: float  # of dense bf16 matrix products, summed in float32


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is to be read, and how many chunks together."""

    chunks: int
    rows: int
    tokens: int  # of all prompts
    prompt_tokens: int  # of the longest
    vision_tokens: int  # of the pictures that go through the vision tower
    reply_tokens: int  # a chunk's usual reply


# From the vendors' data sheets, without sparsity, by the words of the name the driver gives. First match counts.
_CARDS: dict[str, Rates] = {
    "H200 NVL": Rates(4.8e12, 835e12),
    "H200": Rates(4.8e12, 989e12),
    "H100 PCIe": Rates(2.0e12, 756e12),
    "H100 NVL": Rates(3.9e12, 835e12),
    "H100": Rates(3.35e12, 989e12),
    "A100 80GB": Rates(1.935e12, 312e12),
    "A100": Rates(1.555e12, 312e12),
    "L40S": Rates(864e9, 362e12),
    "RTX 5090": Rates(1.792e12, 209e12),
    "RTX 4090": Rates(1.008e12, 165e12),
    "RTX 3090": Rates(936e9, 71e12),
    "A10": Rates(600e9, 125e12),
    "L4": Rates(300e9, 121e12),
    "T4": Rates(320e9, 65e12),  # in float16: it has no bf16
}
_OTHER_CARD = Rates(300e9, 60e12)  # cautious
_PARTS_OF_CARDS = {"MIG", "Laptop"}  # named after a card, but slower
_HOST = Rates(10e9, 60e9)  # two cores of a 2024 server


@dataclass(frozen=True, slots=True)
class _Reads:
    """Share of its bandwidth a card reaches where weights of one kind are read."""

    unpacking: float  # for a prompt: read as they are, written as bf16
    lone_step: float  # by the kernel for one row
    step: float  # by the kernel for several rows, with all that a step does besides


# Shares of the data sheet's rates that the engine reached on one H200 (benchmarks/results/engine-h200.json): 30 prompts
# of 2,779 tokens, vision and steps of 30 and of 1. int8's unpacking is what its prefill took longer than bf16's.
_PREFILL_SHARE = 0.58
_VISION_SHARE = 0.27
_CACHE_SHARE = 0.77  # keys and values, from the attention kernel alone
_READS: dict[Precision, _Reads] = {
    "int8": _Reads(0.48, 0.58, 0.32),
    "nf4": _Reads(0.48, 0.4, 0.2),  # not measured yet: assumed
    "bf16": _Reads(1.0, 0.79, 0.55),
}

# Stock transformers on the same H200: share of its matrix rate in vision and prefill of 300 slices of 512², and the
# launches of one layer in a decode step, which no card makes faster and a slow host makes slower: the slower of two
# hosts. nf4: on one H100.
_STOCK_SHARE = {"int8": 0.21, "nf4": 0.33, "bf16": 0.38, "fp32": 0.03}
_STOCK_LAYER_S = {"int8": 4.51e-3, "nf4": 2.0e-3, "bf16": 2.0e-3, "fp32": 1.5e-3}
_HOST_LAYER_S = 1.5e-3


def card_rates(name: str) -> Rates:
    """Return what a card can do, by the name the driver gives it; a cautious guess for one that is not known."""
    words = set(re.split(r"[\s-]+", name))
    if words & _PARTS_OF_CARDS:
        return _OTHER_CARD
    return next((rates for card, rates in _CARDS.items() if words.issuperset(card.split())), _OTHER_CARD)


def estimate_seconds(
    shape: ModelShape, device: Device, precision: Precision, amount: Amount, path: DecodePath
) -> float:
    """Estimate the time from the first picture to the last reply."""
    if path == "engine":
        return _engine_seconds(shape, card_rates(device.name), precision, amount)
    operations = _prefill_operations(shape, amount) + _vision_operations(shape, amount)
    width = value_bytes(precision, path)
    step_bytes = _step_weights(shape, precision, width) + _step_cache(shape, amount, width)
    steps = -(-amount.chunks // amount.rows) * amount.reply_tokens
    if path == "cpu":
        step = shape.layers * _HOST_LAYER_S + step_bytes / _HOST.bytes_per_s
        return operations / _HOST.operations_per_s + steps * step
    rates = card_rates(device.name)
    step = shape.layers * _STOCK_LAYER_S[precision] + step_bytes / rates.bytes_per_s
    return operations / (_STOCK_SHARE[precision] * rates.operations_per_s) + steps * step


def _engine_seconds(shape: ModelShape, rates: Rates, precision: Precision, amount: Amount) -> float:
    reads = _READS.get(precision, _READS["bf16"])
    prefill = _prefill_operations(shape, amount) / (_PREFILL_SHARE * rates.operations_per_s)
    vision = _vision_operations(shape, amount) / (_VISION_SHARE * rates.operations_per_s)
    unpacking = 0.0
    if precision in ("int8", "nf4"):
        moved = linear_bytes(shape, precision) + linear_bytes(shape, "bf16")
        unpacking = amount.chunks * moved / (reads.unpacking * rates.bytes_per_s)
    # A row that has ended is taken by the next chunk, so that no step runs half empty before the last ones.
    steps = amount.reply_tokens * max(1.0, amount.chunks / amount.rows)
    share = reads.lone_step if amount.rows == 1 else reads.step
    width = value_bytes(precision, "engine")
    step = _step_weights(shape, precision, width) / share + _step_cache(shape, amount, width) / _CACHE_SHARE
    return prefill + vision + unpacking + steps * step / rates.bytes_per_s


def _prefill_operations(shape: ModelShape, amount: Amount) -> float:
    """Operations of prefill; each token attends to half of its prompt on average."""
    products = 2.0 * shape.text_linear_parameters * amount.tokens
    return products + 2.0 * shape.layers * shape.heads * shape.head_dim * amount.prompt_tokens * amount.tokens


def _vision_operations(shape: ModelShape, amount: Amount) -> float:
    return float(shape.vision_operations_per_token) * amount.vision_tokens


def _step_weights(shape: ModelShape, precision: Precision, width: int) -> float:
    """Bytes of weights a decode step reads: the layers and the output matrix."""
    return linear_bytes(shape, precision) + float(shape.vocab * shape.hidden * width)


def _step_cache(shape: ModelShape, amount: Amount, width: int) -> float:
    """Bytes of keys and values a decode step reads: every row's, its reply half written."""
    places = min(amount.rows, amount.chunks) * (amount.prompt_tokens + amount.reply_tokens / 2)
    return places * shape.cache_bytes_per_token(width)
