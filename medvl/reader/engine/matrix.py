"""The weights of one or several stacked Linear layers, multiplied as they are kept.

The layers go on working: their own weights become views of the stack, so nothing is held twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW_ROWS = 64  # up to here reading the weights takes longer than multiplying them
_NF4_BLOCK = 64  # weights that share one absmax; the only size bitsandbytes loads with by default

Kind = Literal["dense", "int8", "nf4"]
_KINDS: dict[str, Kind] = {"Linear": "dense", "Linear8bitLt": "int8", "Linear4bit": "nf4"}


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """Weights (n, k).

    values: (n, k) as they are, or for nf4 flat, two in a byte, the first in the high half. scales, float32: int8 (n,),
    weight = value × scale; nf4 one per 64 weights, weight = code[value] × scale. code: nf4's 16 values.
    """

    kind: Kind
    values: Tensor
    scales: Tensor | None
    shape: tuple[int, int]
    code: tuple[float, ...] | None = None

    @staticmethod
    def from_linears(layers: Sequence[nn.Linear]) -> Matrix:
        """Stack layers with inputs of one size along their outputs, the first on top.

        Raises ValueError if they have a bias, are kept in different ways, or in one that is not known here.
        """
        kinds = {_KINDS.get(type(layer).__name__) for layer in layers}
        kind = kinds.pop()
        if kinds or kind is None or any(layer.bias is not None for layer in layers):
            raise ValueError(f"layers {[type(layer).__name__ for layer in layers]}; expected one kind, without biases")
        shape = (sum(layer.out_features for layer in layers), layers[0].in_features)
        return _STACKED[kind](layers, shape)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return the weights (n, k) in a type to compute with; the very tensor if they are kept in it."""
        if self.kind == "dense":
            return self.values.to(dtype)
        out = torch.empty(self.shape, dtype=dtype, device=self.values.device)
        if self.kind == "int8":
            return self._widen_int8(out)
        return self._widen_nf4(out)

    def multiply(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return x times the transposed weights: x (m, k) gives (m, n), in x's type if no other is named."""
        if self.is_few(x):
            return self.multiply_few(x, dtype=dtype)
        return F.linear(x, self.dense(x.dtype)).to(dtype or x.dtype)

    def is_few(self, x: Tensor) -> bool:
        """Tell whether rows x go through a kernel that reads the weights as they are kept."""
        return x.is_cuda and 0 < len(x) <= FEW_ROWS

    def multiply_few(self, x: Tensor, *, gated: bool = False, dtype: torch.dtype | None = None) -> Tensor:
        """Return the product with few rows. Gated: the weights are gate above up; gives silu(gate) × up, half as wide.

        nf4 knows no gate.
        """
        from medvl.reader.engine import products

        n, k = self.shape
        width, rows = n // 2 if gated else n, x.contiguous()
        out = torch.empty(1, len(x), width, dtype=dtype or x.dtype, device=x.device)
        if self.scales is not None and self.code is not None:
            products.multiply_few_nf4(rows, self.values, self.scales, self.code, out[0])
        else:
            tiles = products.choose_tiles(len(x), width, k, self.values.element_size(), gated=gated, whole=True)
            products.multiply(rows, self.values, self.scales, out, tiles, gated=gated)
        return out[0]

    def multiply_parts(self, x: Tensor) -> Tensor:
        """Return the product with few rows as float32 summands (parts, m, n): narrow weights keep a card busy so."""
        from medvl.reader.engine import products

        n, k = self.shape
        if self.kind == "nf4":
            return self.multiply_few(x, dtype=torch.float32)[None]
        tiles = products.choose_tiles(len(x), n, k, self.values.element_size(), gated=False, whole=False)
        out = torch.empty(tiles.parts, len(x), n, dtype=torch.float32, device=x.device)
        products.multiply(x.contiguous(), self.values, self.scales, out, tiles, gated=False)
        return out

    def _widen_int8(self, out: Tensor) -> Tensor:
        assert self.scales is not None, "int8 has scales"
        if not out.is_cuda:
            return out.copy_(self.values * self.scales[:, None])
        from medvl.reader.engine import products

        products.widen_int8(self.values, self.scales, out)
        return out

    def _widen_nf4(self, out: Tensor) -> Tensor:
        assert self.scales is not None and self.code is not None, "nf4 has scales and a code"
        if not out.is_cuda:
            numbers = torch.stack([self.values >> 4, self.values & 15], -1).long()
            code = torch.tensor(self.code, device=out.device)
            return out.copy_((code[numbers].view(-1, _NF4_BLOCK) * self.scales[:, None]).view(self.shape))
        from medvl.reader.engine import products

        products.widen_nf4(self.values, self.scales, self.code, out)
        return out


def _stack(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _stack_dense(layers: Sequence[nn.Linear], shape: tuple[int, int]) -> Matrix:
    values = _stack([layer.weight.data for layer in layers])
    for layer, rows in zip(layers, torch.split(values, [layer.out_features for layer in layers]), strict=True):
        layer.weight.data = rows
    return Matrix("dense", values, None, shape)


def _stack_int8(layers: Sequence[Any], shape: tuple[int, int]) -> Matrix:
    """Stack LLM.int8() layers: weight = CB × SCB / 127, both on the parameter until the first forward moves them."""
    holders = [layer.state if layer.weight.CB is None else layer.weight for layer in layers]
    if any(holder.CB is None for holder in holders):
        raise ValueError("an int8 layer that was never moved to its device, so that it is not quantised yet")
    values = _stack([holder.CB for holder in holders])
    for layer, holder, rows in zip(layers, holders, torch.split(values, [len(h.CB) for h in holders]), strict=True):
        layer.weight.data = holder.CB = rows
    return Matrix("int8", values, _stack([holder.SCB for holder in holders]).float() / 127, shape)


def _stack_nf4(layers: Sequence[Any], shape: tuple[int, int]) -> Matrix:
    states = [layer.weight.quant_state for layer in layers]
    if any(state is None or state.quant_type != "nf4" or state.blocksize != _NF4_BLOCK for state in states):
        raise ValueError("a 4-bit layer that is not quantised, or not to nf4 in blocks of 64")
    if shape[1] % _NF4_BLOCK:
        raise ValueError(f"4-bit layers with inputs of {shape[1]}, whose rows end inside a block of 64")
    if any(getattr(state, "packing_format_for_cpu", False) for state in states):
        raise ValueError("a 4-bit layer that has answered on this CPU, which packed its weights anew with a loss")
    values = _stack([layer.weight.data.flatten() for layer in layers])
    sizes = [layer.weight.data.numel() for layer in layers]
    for layer, part in zip(layers, torch.split(values, sizes), strict=True):
        layer.weight.data = part.view(layer.weight.data.shape)
    return Matrix("nf4", values, _stack([_absmax(state) for state in states]), shape, tuple(states[0].code.tolist()))


def _absmax(state: Any) -> Tensor:
    """Return what each block was divided by; double quantisation, if there is, undone."""
    if state.state2 is None:
        return state.absmax.float()  # type: ignore[no-any-return]  # bitsandbytes is untyped
    from bitsandbytes.functional import dequantize_blockwise

    return (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()  # type: ignore[no-any-return]


_STACKED = {"dense": _stack_dense, "int8": _stack_int8, "nf4": _stack_nf4}
