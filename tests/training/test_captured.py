from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.captured import _PLAIN_CALLS, Captured, Replay, Tensors

CPU = torch.device("cpu")


class Machine:
    """A function with a memory, and a recorder that does with it what a CUDA graph would: same addresses, no Python."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self.calls = 0
        self.captured: Captured | None = None

    def function(self, inputs: Tensors) -> dict[str, Tensor]:
        self.calls += 1
        self.total.add_(inputs["x"].sum())
        return {"total": self.total * inputs["scale"]}

    def record(self, run: Callable[[], None]) -> Replay:
        before = self.total.clone()
        run()
        self.total.copy_(before)  # recording executes nothing
        assert self.captured is not None
        inputs, outputs = self.captured._inputs, self.captured._outputs

        def replay() -> None:
            self.total.add_(inputs["x"].sum())
            outputs["total"].copy_(self.total * inputs["scale"])

        return replay


def inputs_of(number: int) -> dict[str, Tensor]:
    return {"x": torch.full((2,), float(number)), "scale": torch.tensor(10.0)}


@pytest.mark.parametrize("recorded", [False, True])
def test_every_call_is_one_step_recorded_or_not(recorded: bool) -> None:
    machine = Machine()
    captured = Captured(machine.function, CPU, machine.record if recorded else None)
    machine.captured = captured
    told = [captured(inputs_of(number))["total"] for number in range(1, 7)]
    # 2, 2 + 4, 2 + 4 + 6 … times 10; each answer stays what it was.
    assert [value.item() for value in told] == [20, 60, 120, 200, 300, 420]
    assert machine.calls == (_PLAIN_CALLS + 1 if recorded else 6)


def test_inputs_of_another_shape_are_refused() -> None:
    machine = Machine()
    captured = Captured(machine.function, CPU, machine.record)
    captured(inputs_of(1))
    with pytest.raises(RuntimeError, match="size"):
        captured({"x": torch.zeros(3), "scale": torch.tensor(1.0)})
