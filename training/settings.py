"""The settings of a training, read from one YAML file. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medvl.planning.shape import ModelShape

DEFAULT_FILE = Path(__file__).with_name("settings.yaml")
Range = tuple[float, float]  # at the start and at the end of training


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Everything that decides what a training does, apart from how long one call of it may take."""

    seed: int
    size_px: int
    steps: int
    pictures: int
    shape: ModelShape
    rope_theta: float
    questions: dict[str, Range]
    aimed: Range
    enriched: Range
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    decay_from: float
    average: float

    def progress(self, step: int) -> float:
        """Return how far the training is at a step, 0 … 1."""
        return min(1.0, step / self.steps)


def load_settings(path: Path = DEFAULT_FILE, **overrides: Any) -> TrainingSettings:
    """Read settings; overrides replace single values. Raises TypeError for a key that is missing or unknown."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) | overrides
    shape = content.pop("shape")
    shape["deepstack"] = tuple(shape["deepstack"])
    ranges: dict[str, Any] = {name: _range(content.pop(name)) for name in ("aimed", "enriched")}
    questions = {name: _range(value) for name, value in content.pop("questions").items()}
    return TrainingSettings(shape=ModelShape(**shape), questions=questions, **ranges, **content)


def between(ends: Range, progress: float) -> float:
    """Return the value of a range at some progress."""
    return ends[0] + (ends[1] - ends[0]) * progress


def _range(value: Any) -> Range:
    start, end = value
    return float(start), float(end)
