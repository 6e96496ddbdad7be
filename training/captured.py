"""Records the kernels of a step as one CUDA graph: the host then launches one thing where it launched thousands.

A graph repeats what was recorded at the same addresses. So every call copies its inputs into the same buffers, and
nothing that is recorded may ask the device for a value or fetch one from the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Function = Callable[[Tensors], dict[str, Tensor]]
Replay = Callable[[], None]
Recorder = Callable[[Callable[[], None]], Replay]

_PLAIN_CALLS = 3  # in which functions are compiled, tables made, and the optimiser's state set up


class CudaRecorder:
    """Records on the current stream. All graphs share one pool of memory, since they never run at once."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], None]) -> Replay:
        """Record what `run` launches, without executing it; return what does execute it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=torch.cuda.current_stream()):
            run()
        replay: Replay = graph.replay
        return replay


class Captured:
    """A function of tensors of ever the same shapes: called as it is a few times, then recorded and replayed.

    Without a recorder it is always called as it is.
    """

    def __init__(self, function: Function, device: torch.device, recorder: Recorder | None) -> None:
        self._function, self._device, self._recorder = function, device, recorder
        self._plain_calls = 0
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._replay: Replay | None = None

    def __call__(self, inputs: Tensors) -> dict[str, Tensor]:
        """Return the function's outputs for inputs on the host or the device."""
        if self._recorder is None:
            return self._function(to_device(inputs, self._device))
        self._fill(inputs)
        if self._plain_calls < _PLAIN_CALLS:
            self._plain_calls += 1
            return self._function(self._inputs)
        if self._replay is None:
            self._replay = self._recorder(self._run)
        self._replay()
        return {name: value.clone() for name, value in self._outputs.items()}  # the next replay overwrites them

    def _fill(self, inputs: Tensors) -> None:
        if not self._inputs:
            self._inputs = {name: torch.empty_like(value, device=self._device) for name, value in inputs.items()}
        for name, value in inputs.items():
            self._inputs[name].copy_(value, non_blocking=True)

    def _run(self) -> None:
        self._outputs = self._function(self._inputs)


def to_device(inputs: Tensors, device: torch.device) -> dict[str, Tensor]:
    """Move tensors to the device without waiting for it."""
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
