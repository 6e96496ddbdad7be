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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.batches import Batch, StepBatches, load_batches
from training.chunks import LOOK_PX, STORED_PX
from training.losses import Losses, combine, map_loss, mark_loss, reply_loss
from training.network import Network
from training.pictures import Painter, Shown
from training.score import Tally, score_replies
from training.settings import DEFAULT_FILE, TrainingSettings, load_settings
from training.state import Training, averaged_model, open_training, save_checkpoint, save_training, to_device, write_log

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
        self.noise = torch.Generator(device=training.device)

    def step(self, batch: Batch) -> tuple[Losses, Tensor]:
        """Take one step. Returns its losses and, for each reply, the scores of its tokens."""
        losses, logits = self.losses(batch)
        self.training.optimiser.step(losses.total, self.training.step)
        self.training.step += 1
        return losses, logits

    def losses(self, batch: Batch) -> tuple[Losses, Tensor]:
        """Compute the losses of a batch, and the logits of its replies."""
        rows = to_device(batch.arrays, self.training.device)
        if batch.scans is None:
            read = self.network.read(rows["ids"], rows["positions"], rows["pictures"], None, rows["read_at"])
            nothing = torch.zeros((), device=self.training.device)
            reply = reply_loss(read.logits, rows["targets"], rows["weights"])
            return combine(reply, nothing, nothing), read.logits
        return self._losses_with_pictures(batch, rows)

    def _losses_with_pictures(self, batch: Batch, rows: dict[str, Tensor]) -> tuple[Losses, Tensor]:
        scans, shown = self._show(batch)
        size_px = shown.grey.shape[-1]
        seen = self.network.see(patch_rows(shown.grey).to(self.training.dtype), size_px // _PATCH_PX)
        read = self.network.read(rows["ids"], rows["positions"], rows["pictures"], seen, rows["read_at"])
        reply = reply_loss(read.logits, rows["targets"], rows["weights"])
        visible = scans["in_lung_window"].float().repeat_interleave(batch.layout.slots)
        lesions = map_loss(self.training.helpers, seen, shown, visible)
        if "marks" in scans:
            marks = mark_loss(self.training.helpers, read, scans["marks"], batch.layout.grid)
        else:
            marks = torch.zeros((), device=self.training.device)
        return combine(reply, lesions, marks), read.logits

    def pictures(self, batch: Batch) -> Tensor:
        """Make the pictures of a batch: (rows, slots, size, size) uint8."""
        return self._show(batch)[1].grey

    @torch.no_grad()
    def _show(self, batch: Batch) -> tuple[dict[str, Tensor], Shown]:
        assert batch.scans is not None
        scans = to_device(batch.scans, self.training.device)
        phantoms = torch.as_tensor(batch.phantoms, device=self.training.device)
        side_px, size_px = (LOOK_PX, LOOK_PX) if batch.kind == "look" else (STORED_PX, self.settings.size_px)
        self.noise.manual_seed(self.settings.seed * 1_000_003 + self.training.step)
        return scans, self.painter.show(phantoms, scans, side_px, size_px, self.noise)


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
        losses, logits = trainer.step(batch)
        tally.add(batch, losses, logits)
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
