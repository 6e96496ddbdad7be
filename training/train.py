"""Trains the demo model: `python -m training.train --minutes 9.3 --state DIR`, as often as it takes.

Each call goes on where the last one ended. Batches follow from the settings and the number of the step, so three calls
of ten minutes see what one of thirty would have seen.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.batches import Batch, StepBatches, load_batches
from training.captured import Captured, CudaRecorder, Tensors, to_device
from training.chunks import LOOK_PX, STORED_PX
from training.losses import combine, corner_loss, judge_decisions, map_loss, mark_loss, reply_losses
from training.network import Network
from training.optimise import schedule
from training.pictures import Painter, Shown
from training.rows import Layout
from training.score import Tally, score_replies
from training.settings import DEFAULT_FILE, TrainingSettings, load_settings
from training.state import Training, averaged_model, open_training, save_checkpoint, save_training, write_log

_AHEAD = 4  # steps the host may run ahead of the device, so that the clock means something
_LOG_EVERY = 100
_PATCH_PX = 16


class Trainer:
    """Takes the steps of one call."""

    def __init__(self, training: Training, settings: TrainingSettings, *, eager: bool) -> None:
        self.training = training
        self.settings = settings
        self.network: Network = training.network(eager=eager)
        self.painter = Painter(eager=eager)
        self._noise = torch.Generator(device=training.device)
        self._recorder = CudaRecorder() if training.device.type == "cuda" and not eager else None
        self._steps: dict[str, Captured] = {}  # of each kind of batch

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step. Returns its losses and how well it went, as scalars on the device."""
        if batch.kind not in self._steps:
            function = partial(self._take, batch.layout)
            self._steps[batch.kind] = Captured(function, self.training.device, self._recorder)
        changing = self._pinned(schedule(self.settings, self.training.step))
        measured = self._steps[batch.kind](self._inputs(batch) | changing)
        self.training.step += 1
        return measured

    def _take(self, layout: Layout, inputs: Tensors) -> dict[str, Tensor]:
        parts, logits = self._losses(layout, inputs)
        self.training.optimiser.step(combine(parts), inputs["rate"], inputs["keep"])
        judged = judge_decisions(logits.detach(), inputs) if "present" in inputs else {}
        return {name: part.detach() for name, part in parts.items()} | judged

    def _losses(self, layout: Layout, inputs: Tensors) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the losses of a batch, and the scores of its replies' tokens."""
        shown = self._show(layout, inputs) if layout.slots else None
        seen = None
        if shown is not None:
            patches = patch_rows(shown.grey).to(self.training.dtype)
            seen = self.network.see(patches, shown.grey.shape[-1] // _PATCH_PX)
        read = self.network.read(inputs["ids"], inputs["positions"], inputs["pictures"], seen, inputs["read_at"])
        parts = reply_losses(read.logits, inputs)
        helpers = self.training.helpers
        if seen is not None and shown is not None:
            visible = inputs["in_lung_window"].float().repeat_interleave(layout.slots)
            parts["lesions"] = map_loss(helpers, seen, shown, visible)
        if seen is not None and "marks" in inputs:
            parts["spots"] = mark_loss(helpers.spot, seen.tokens, inputs["marks"], layout.grid)
            marks = inputs["marks"] * inputs["used"][:, :, None, None]  # a row has no tokens for slots it leaves unused
            parts["marks"] = mark_loss(helpers.mark, read.middle, marks, layout.grid)
            parts["corners"] = corner_loss(helpers, read, marks, layout.grid)
        return parts, read.logits

    def pictures(self, batch: Batch) -> Tensor:
        """Make the pictures of a batch: (rows, slots, size, size) uint8."""
        return self._show(batch.layout, to_device(self._inputs(batch), self.training.device)).grey

    @torch.no_grad()
    def _show(self, layout: Layout, inputs: Tensors) -> Shown:
        return self.painter.show(
            inputs["phantoms"], inputs, inputs["white"], layout.grid * self.settings.shape.token_px
        )

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch as tensors, with the noise of its pictures."""
        inputs = self._pinned(batch.arrays)
        if batch.layout.slots:
            side_px = 2 + (LOOK_PX if batch.kind == "look" else STORED_PX)
            shape = (*batch.arrays["heights"].shape, side_px, side_px)
            self._noise.manual_seed(self.settings.seed * 1_000_003 + self.training.step)
            inputs["white"] = torch.randn(shape, generator=self._noise, device=self.training.device)
        return inputs

    def _pinned(self, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return arrays as tensors in memory from which the device can fetch while the host goes on."""
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        pin = self.training.device.type == "cuda"
        return {name: tensor.pin_memory() for name, tensor in tensors.items()} if pin else tensors


def patch_rows(grey: Tensor) -> Tensor:
    """Return grey pictures (b, n, size, size) as normalised patches (b × n, t, 256) of one colour and frame."""
    values = (grey.flatten(0, 1).float() / 255 - 0.5) / 0.5
    count, size = values.shape[:2]
    across = size // (2 * _PATCH_PX)
    grid = values.view(count, across, 2, _PATCH_PX, across, 2, _PATCH_PX)
    return grid.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, -1, _PATCH_PX**2)


def train(trainer: Trainer, folder: Path, batches: Iterator[Batch], seconds: float) -> None:
    """Take steps until the training is done or the time is up."""
    training, device = trainer.training, trainer.training.device
    end, tally = time.monotonic() + seconds, Tally()
    started: deque[Any] = deque()
    for batch in batches:
        tally.add(batch.kind, trainer.step(batch))
        if device.type == "cuda":
            event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
            event.record()
            started.append(event)
            if len(started) > _AHEAD:
                started.popleft().synchronize()
        if training.step % _LOG_EVERY == 0 or training.step == 10:
            entry = tally.report(training.step)
            write_log(folder, entry)
            print(json.dumps(entry), flush=True)
        if time.monotonic() > end:
            break


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder of this training; a later call goes on there")
    parser.add_argument("--minutes", type=float, default=25.0, help="how long this call may train")
    parser.add_argument("--settings", type=Path, default=DEFAULT_FILE)
    parser.add_argument("--steps", type=int, help="of the whole training, instead of the settings'")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--score", type=int, default=256, help="held-out chunks to reply to in the end")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    options = parser.parse_args()
    settings = load_settings(options.settings, **({"steps": options.steps} if options.steps else {}))
    torch.set_float32_matmul_precision("high")
    if torch.cuda.is_available():  # a graph is recorded on the stream on which everything it needs was made
        torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]  # torch's own
    torch._dynamo.config.recompile_limit = 32  # each block is compiled once for every size of batch
    begun = time.monotonic()
    training = open_training(options.state, settings)
    batches = StepBatches(settings, training.tokenizer)
    steps = load_batches(batches, range(training.step, settings.steps), options.workers)
    trainer = Trainer(training, settings, eager=options.eager)
    train(trainer, options.state, steps, 60 * options.minutes - (time.monotonic() - begun))
    del steps
    save_training(training, options.state)
    model = averaged_model(training)
    save_checkpoint(model, training, settings, options.state / "checkpoint")
    if options.score:
        score = score_replies(model, trainer, batches, options.score)
        write_log(options.state, {"step": training.step, "held_out": score})
        print(json.dumps(score), flush=True)


if __name__ == "__main__":
    main()
