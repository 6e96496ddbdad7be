from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from training.settings import TrainingSettings, load_settings

torch = pytest.importorskip("torch")


@pytest.fixture(scope="session")
def settings() -> TrainingSettings:
    """The settings as shipped, with a model so small that a step takes a second."""
    shipped = load_settings(pictures=4, warmup_steps=1)
    shape = replace(
        shipped.shape, hidden=64, layers=3, heads=2, kv_heads=1, mlp=96, vision_hidden=64, vision_layers=3,
        vision_heads=1, vision_mlp=96, deepstack=(0, 1),
    )  # fmt: skip
    return replace(shipped, shape=shape)


@pytest.fixture(scope="session")
def tokenizer(settings: TrainingSettings) -> Any:
    from medvl.reader.tiny import tiny_corpus, train_tokenizer

    return train_tokenizer(tiny_corpus(), settings.shape.vocab - 40)
