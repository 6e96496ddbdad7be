"""Changes the weights: Muon for the matrices inside the blocks, AdamW for everything else, and a moving average.

Muon makes a step of equal size in every direction of a matrix, which needs far fewer steps than AdamW to learn the
same. Matrices of one shape are orthogonalised together, since each alone is too small to keep a GPU busy.
Source: Jordan et al., Muon (2024); the scale that lets both share a learning rate: Liu et al., arXiv 2502.16982.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.settings import TrainingSettings

_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)  # five rounds bring singular values of 0.01 … 1 near 1
_ADAM_SIZE = 0.2  # root mean square of AdamW's usual update


class Muon:
    """Muon over named matrices; parameters keep their own storage."""

    def __init__(self, matrices: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> None:
        groups: dict[tuple[bool, torch.Size], list[nn.Parameter]] = {}
        for name, matrix in matrices:  # a question without pictures leaves the whole vision tower as it is
            groups.setdefault(("visual" in name, matrix.shape), []).append(matrix)
        self._groups = list(groups.values())
        self._momenta = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self._groups]
        self._decay = weight_decay

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        """Change the weights by their gradients; rate is a scalar."""
        for group, momentum in zip(self._groups, self._momenta, strict=True):
            gradients = [matrix.grad for matrix in group if matrix.grad is not None]
            if len(gradients) < len(group):
                continue
            gradient = torch.stack(gradients)
            momentum.lerp_(gradient, 1 - _MOMENTUM)
            update = orthogonalise(gradient.lerp(momentum, _MOMENTUM))
            update = update.to(group[0].dtype) * (rate * _ADAM_SIZE * max(group[0].shape) ** 0.5)
            weights: list[Tensor] = [*group]
            torch._foreach_mul_(weights, 1 - rate * self._decay)
            torch._foreach_sub_(weights, list(update.unbind(0)))

    def state_dict(self) -> list[Tensor]:
        """Return the momenta."""
        return self._momenta

    def load_state_dict(self, state: Sequence[Tensor]) -> None:
        """Take over momenta."""
        for momentum, saved in zip(self._momenta, state, strict=True):
            momentum.copy_(saved)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return (n, rows, columns) with all singular values near 1, by a quintic Newton–Schulz iteration."""
    a, b, c = _QUINTIC
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x.mT if x.shape[1] > x.shape[2] else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    turned: Tensor = x.mT if matrices.shape[1] > matrices.shape[2] else x
    return turned


class Optimiser:
    """Both optimisers, and the moving average of the weights.

    What changes with the step comes as tensors, so that a recorded step can be replayed with other values.
    """

    def __init__(self, model: nn.Module, helpers: nn.Module, settings: TrainingSettings) -> None:
        named = list(model.named_parameters())
        matrices = [(name, weight) for name, weight in named if is_matrix(name, weight)]
        others = [weight for name, weight in named if not is_matrix(name, weight)] + list(helpers.parameters())
        self._weights = [*(weight for _, weight in named), *helpers.parameters()]
        self._averaged: list[Tensor] = [weight for _, weight in named]
        self.average = [weight.detach().clone() for weight in self._averaged]
        self._muon = Muon(matrices, settings.weight_decay)
        self._adam = torch.optim.AdamW(
            others,
            lr=torch.zeros((), device=others[0].device),
            betas=(0.9, 0.95),
            weight_decay=settings.weight_decay,
            fused=True,
            capturable=True,
        )

    def step(self, loss: Tensor, rate: Tensor, keep: Tensor) -> None:
        """Change the weights to lower the loss, and move the average along. rate, keep: scalars of `schedule`."""
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        for group in self._adam.param_groups:
            group["lr"].copy_(rate)
        self._adam.step()
        self._muon.step(rate)
        for weight in self._weights:
            weight.grad = None
        self._move_average(1 - keep)

    @torch.no_grad()
    def _move_average(self, share: Tensor) -> None:
        change = torch._foreach_sub(self._averaged, self.average)
        torch._foreach_mul_(change, share)
        torch._foreach_add_(self.average, change)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed training needs besides the weights."""
        return {"adam": self._adam.state_dict(), "muon": self._muon.state_dict(), "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._adam.load_state_dict(state["adam"])
        self._muon.load_state_dict(state["muon"])
        for average, saved in zip(self.average, state["average"], strict=True):
            average.copy_(saved)


def is_matrix(name: str, weight: Tensor) -> bool:
    """Tell whether Muon takes a weight: the matrices inside blocks and mergers, but no table and no first layer."""
    return weight.ndim == 2 and not any(part in name for part in ("embed", "lm_head"))


def schedule(settings: TrainingSettings, step: int) -> dict[str, NDArray[np.float32]]:
    """Return what changes with the step: the learning rate, and how much of the average is kept."""
    keep = min(settings.average, (step + 1) / (step + 10))
    return {"rate": np.array(learning_rate(settings, step), np.float32), "keep": np.array(keep, np.float32)}


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Return the learning rate: a short rise, a plateau, and a straight fall to nothing."""
    rise = min(1.0, (step + 1) / settings.warmup_steps)
    left = (1 - settings.progress(step)) / (1 - settings.decay_from)
    return settings.learning_rate * min(rise, max(left, 0.0), 1.0)
