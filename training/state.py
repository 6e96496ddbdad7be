"""A training on disk: what a later call needs to go on, and the checkpoint that comes out of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from medvl.reader.tiny import make_config, write_checkpoint
from training.chunks import LOOK_PX
from training.losses import Helpers
from training.network import Network
from training.optimise import Optimiser
from training.settings import TrainingSettings
from training.vocabulary import train_vocabulary

_STATE, _TOKENIZER, _LOG = "state.pt", "tokenizer", "log.jsonl"
MAX_NEW_TOKENS = 600  # six findings in full
WARNING = "demo model, trained on computer-made phantoms only: never for patients"


@dataclass(slots=True)
class Training:
    """Everything that a training changes."""

    step: int
    model: Any
    helpers: Helpers
    optimiser: Optimiser
    tokenizer: PreTrainedTokenizerFast
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products; weights are float32."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def network(self, *, eager: bool) -> Network:
        """Return the fast forward of the model."""
        return Network(self.model, self.dtype, eager=eager)


def open_training(folder: Path, settings: TrainingSettings) -> Training:
    """Begin a training in a folder, or go on with the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = _open_tokenizer(folder / _TOKENIZER, settings)
    torch.manual_seed(settings.seed)
    config = make_config(settings.shape, tokenizer, rope_theta=settings.rope_theta)
    model = Qwen3VLForConditionalGeneration(config).to(device)
    helpers = Helpers(settings.shape.vision_hidden, settings.shape.hidden).to(device)
    training = Training(0, model, helpers, Optimiser(model, helpers, settings), tokenizer, device)
    if (folder / _STATE).exists():
        _load(training, folder / _STATE)
    return training


def _open_tokenizer(folder: Path, settings: TrainingSettings) -> PreTrainedTokenizerFast:
    if not folder.exists():
        train_vocabulary(settings).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _load(training: Training, path: Path) -> None:
    state = torch.load(path, map_location=training.device, weights_only=True)
    training.step = state["step"]
    training.model.load_state_dict(state["model"])
    training.helpers.load_state_dict(state["helpers"])
    training.optimiser.load_state_dict(state["optimiser"])


def save_training(training: Training, folder: Path) -> None:
    """Save what a later call needs; written beside its place and renamed."""
    state = {
        "step": training.step,
        "model": training.model.state_dict(),
        "helpers": training.helpers.state_dict(),
        "optimiser": training.optimiser.state_dict(),
    }
    torch.save(state, folder / "state.draft")
    (folder / "state.draft").rename(folder / _STATE)


def averaged_model(training: Training) -> Any:
    """Return a copy of the model with the moving average of its weights."""
    model = Qwen3VLForConditionalGeneration(training.model.config).to(training.device)
    with torch.no_grad():
        for weight, average in zip(model.parameters(), training.optimiser.average, strict=True):
            weight.copy_(average)
    return model.eval()


def save_checkpoint(model: nn.Module, training: Training, settings: TrainingSettings, folder: Path) -> None:
    """Write the checkpoint that medvl ships, replacing what was in the folder."""
    preferences = {
        "size_px": settings.size_px,
        "slab": "auto",
        "chunk": "4",
        "prompt": "chest_ct",
        "windows": ["lung"],
        "max_new_tokens": MAX_NEW_TOKENS,
        "second_look": "findings",
        "look_px": LOOK_PX,
        "looks_for": ["nodule"],
        "warning": WARNING,
    }
    shutil.rmtree(folder, ignore_errors=True)
    write_checkpoint(folder, model, training.tokenizer, preferences)


def write_log(folder: Path, entry: Mapping[str, object]) -> None:
    """Add one line to the training's log."""
    with (folder / _LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
