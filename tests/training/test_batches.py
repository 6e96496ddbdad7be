from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.batches import StepBatches
from training.settings import TrainingSettings, load_settings


@pytest.fixture(scope="module")
def half() -> TrainingSettings:
    """Half of the chunks are aimed, three quarters of the phantoms enriched, from start to end."""
    return load_settings(pictures=32, aimed=(0.5, 0.5), enriched=(0.75, 0.75))


@pytest.fixture(scope="module")
def batches(half: TrainingSettings, tokenizer: Any) -> StepBatches:
    return StepBatches(half, tokenizer)


def test_the_same_step_has_the_same_batch(batches: StepBatches) -> None:
    first, second = batches[7], batches[7]
    assert first.kind == second.kind
    assert all(np.array_equal(values, second.arrays[name]) for name, values in first.arrays.items())


def test_used_slots_are_those_whose_tokens_stand_in_the_row(batches: StepBatches, tokenizer: Any) -> None:
    batch = batches.draw(np.random.default_rng(0), "usual", 0.5)
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    pictures = (batch.arrays["ids"] == pad).sum(axis=1) // batch.layout.picture_tokens
    assert batch.arrays["used"].sum(axis=1).tolist() == pictures.tolist()
    assert batch.arrays["used"][:, 0].all()


def test_decisions_follow_studies_from_when_the_learning_rate_falls(
    batches: StepBatches, half: TrainingSettings
) -> None:
    def natural(progress: float) -> np.ndarray:
        return batches.draw(np.random.default_rng(1), "short", progress).arrays["natural"]

    wholly = natural(1.0)
    assert natural(0.0).tolist() == [1.0] * 8
    assert natural(0.5 * half.decay_from) == pytest.approx(wholly**0.5)
    assert natural(half.decay_from) == pytest.approx(wholly)
    # At most as seldom drawn as a chunk anywhere in a healthy phantom is: 1 / 0.25 if lesions cannot be aimed at.
    assert len(set(wholly.tolist())) > 1 and wholly.max() <= 4.0 and wholly.min() < 1


def test_marks_are_shown_only_where_the_window_shows_the_lung(batches: StepBatches) -> None:
    drawn = [batches.draw(np.random.default_rng(seed), "short", 0.5).arrays for seed in range(12)]
    marked = np.concatenate([arrays["marks"][..., 0].any(axis=(1, 2)) for arrays in drawn])
    visible = np.concatenate([arrays["in_lung_window"] for arrays in drawn])
    assert not visible.all() and not marked[~visible].any()
    assert marked[visible].mean() > 0.2


@pytest.mark.parametrize("kind", ["look", "impression"])
def test_other_questions_count_as_drawn(batches: StepBatches, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.batches._IMPRESSION_ROWS", 3)
    monkeypatch.setattr("training.batches._LOOK_ROWS", 3)
    arrays = batches.draw(np.random.default_rng(0), kind, 1.0).arrays
    assert arrays["natural"].tolist() == [1.0] * 3
    assert arrays["decides"].sum(axis=1).tolist() == ([1] * 3 if kind == "look" else [0] * 3)
