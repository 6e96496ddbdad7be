"""Takes all slots one token further at a time, over static buffers; on a GPU by replaying one captured graph.

The mask of the next token is made on the host while the GPU already runs the next step: a step needs the chosen token
alone, and its mask only when its logits are there.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvl.reader.engine.choice import choose_tokens
from medvl.reader.engine.text import Prompt, TextModel
from medvl.reader.grammar import Mask
from medvl.reader.identity import Sampling

_WARM_UPS = 2  # steps before a capture: kernels compile and libraries take their workspaces


class Decoder:
    """The slots of a run and everything a step reads and writes."""

    def __init__(self, text: TextModel, mask: Mask, places: int, sampling: Sampling) -> None:
        """mask: (slots, words), all zero; filled in place before each `choose`."""
        count, device = len(mask), text.device
        self.mask = mask
        self.chances: NDArray[np.float32] = np.zeros(count, np.float32)  # for draws, filled before each `choose`
        self.slots = text.empty_slots(count, places)
        self._text, self._sampling = text, sampling
        self._tokens, self._positions, self._lengths, self._alive = (
            torch.zeros(count, dtype=torch.int64, device=device) for _ in range(4)
        )
        self._logits = torch.zeros(count, text.vocab, device=device)
        self._sent_mask, self._sent_chances = _Sent(mask, device), _Sent(self.chances, device)
        self._chosen = _Fetched(torch.zeros(2, count, dtype=torch.float64, device=device))
        self._graph = self._capture() if device.type == "cuda" else None

    def admit(self, slot: int, prompt: Prompt) -> None:
        """Read a prompt into a free slot."""
        self._logits[slot] = self._text.prefill(prompt, self.slots, slot)
        self._lengths[slot] = len(prompt.ids)
        self._positions[slot] = prompt.positions.max() + 1
        self._alive[slot] = 1

    def release(self, slot: int) -> None:
        """Free a slot."""
        self._alive[slot] = 0
        self._lengths[slot] = 0

    def choose(self) -> None:
        """Choose every slot's next token, and start fetching it."""
        tokens, probabilities = choose_tokens(
            self._logits, self._sent_mask.send(), self._sent_chances.send(), self._sampling
        )
        self._tokens.copy_(tokens)
        self._chosen.fetch(torch.stack([tokens.double(), probabilities.double()]))

    def advance(self) -> None:
        """Start the step that reads the chosen tokens."""
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()

    def chosen(self) -> list[tuple[int, float]]:
        """Wait for the chosen tokens; return each slot's with its probability."""
        tokens, probabilities = self._chosen.wait().tolist()
        return [(int(token), probability) for token, probability in zip(tokens, probabilities, strict=True)]

    def _step(self) -> None:
        self._lengths.add_(self._alive)
        self._logits.copy_(self._text.step(self._tokens, self._positions, self._lengths, self.slots))
        self._positions.add_(self._alive)

    def _capture(self) -> Any:
        """Capture a step; with every slot free it writes nothing that is ever read."""
        beside = _side_stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                self._step()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=beside):
            self._step()
        return graph


@cache
def _side_stream() -> Any:
    """Return the one stream that steps are captured on: cuBLAS keeps a workspace for every stream it has seen."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own


class _Sent:
    """A host array that is copied to the device again and again."""

    def __init__(self, array: NDArray[Any], device: torch.device) -> None:
        self._array = array
        self._host = torch.from_numpy(array.copy())
        if device.type == "cuda":
            self._host = self._host.pin_memory()
        self._there = self._host.to(device)

    def send(self) -> Tensor:
        """Start copying what the array holds now."""
        self._host.copy_(torch.from_numpy(self._array))
        return self._there.copy_(self._host, non_blocking=True)


class _Fetched:
    """A device tensor that is copied to the host without stopping the device."""

    def __init__(self, like: Tensor) -> None:
        self._host = torch.zeros(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)
        self._event: Any = torch.cuda.Event() if like.is_cuda else None  # type: ignore[no-untyped-call]  # torch's own

    def fetch(self, values: Tensor) -> None:
        """Start copying."""
        self._host.copy_(values, non_blocking=True)
        if self._event is not None:
            self._event.record()

    def wait(self) -> Tensor:
        """Wait for the copy."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
