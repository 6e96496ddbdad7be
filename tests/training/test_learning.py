from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from training.batches import Batch, StepBatches
from training.losses import mark_targets, reply_loss
from training.optimise import is_matrix, learning_rate, orthogonalise
from training.score import compare
from training.settings import TrainingSettings, between, load_settings
from training.state import Training, averaged_model, open_training, save_checkpoint, save_training
from training.train import Trainer, patch_rows


def test_orthogonalised_matrices_stretch_every_direction_alike() -> None:
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    for wide in (matrices, matrices.mT):
        stretched = torch.linalg.svdvals(orthogonalise(wide))
        assert stretched.min() > 0.6 and stretched.max() < 1.3
    assert torch.linalg.svdvals(matrices).max() > 5


def test_muon_takes_matrices_of_blocks_but_no_tables() -> None:
    matrix, vector = torch.zeros(4, 4), torch.zeros(4)
    assert is_matrix("model.language_model.layers.0.mlp.up_proj.weight", matrix)
    assert not is_matrix("model.language_model.embed_tokens.weight", matrix)
    assert not is_matrix("model.visual.pos_embed.weight", matrix)
    assert not is_matrix("model.visual.blocks.0.norm1.weight", vector)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    settings = load_settings(steps=1000, warmup_steps=100, decay_from=0.5, learning_rate=2.0)
    rates = [learning_rate(settings, step) for step in (0, 49, 99, 500, 750, 1000)]
    assert rates == pytest.approx([0.02, 1.0, 2.0, 2.0, 1.0, 0.0])


def test_shares_change_linearly_with_progress() -> None:
    assert [between((0.6, 0.2), progress) for progress in (0, 0.5, 1)] == pytest.approx([0.6, 0.4, 0.2])


def test_padding_of_a_reply_costs_nothing() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 1, 2] = 100.0
    # The first token is one of four by chance, ln 4 at weight 3; the second is certain; the third is padding.
    loss = reply_loss(logits, torch.tensor([[0, 2, 1]]), torch.tensor([[3.0, 1.0, 0.0]]))
    assert loss.item() == pytest.approx(3 * np.log(4) / 4)


def test_a_mark_lies_in_the_token_that_holds_the_middle_of_the_nodule() -> None:
    marks = torch.tensor([[[[1.0, 0.60, 0.30, 0.05], [0.0, 0.1, 0.1, 0.1]]]])
    targets = mark_targets(marks, 4)
    assert targets.shape == (1, 1, 16, 4)
    assert targets[0, 0, 1 * 4 + 2].tolist() == pytest.approx([1.0, 0.4, 0.2, 0.2])
    assert targets[..., 0].sum() == 1


def test_maps_are_cut_as_patches_are() -> None:
    from training.losses import _per_patch

    picture = torch.randint(0, 256, (1, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    values = (picture[0].float() / 255 - 0.5) / 0.5
    assert torch.equal(_per_patch(values, 16), patch_rows(picture))


def test_replies_are_compared_by_place() -> None:
    box, near, far = [100, 100, 120, 120], [104, 100, 124, 120], [400, 100, 420, 120]

    def reply(*boxes: list[int], slice: int = 2, side: str = "left") -> str:
        rest = f'"first_slice": 2, "last_slice": 3, "observation": "nodule", "side": "{side}"'
        entries = ", ".join(f'{{"slice": {slice}, "bbox_2d": {box}, {rest}}}' for box in boxes)
        return f'{{"findings": [{entries}]}}'

    # found, missed, false, sides right, kinds right, sum of centre errors, broken, rightly empty
    assert compare(reply(near), reply(box)).tolist() == [1, 0, 0, 1, 1, 4, 0, 0]
    assert compare(reply(near, side="right"), reply(box)).tolist() == [1, 0, 0, 0, 1, 4, 0, 0]
    assert compare(reply(near, slice=6), reply(box)).tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    assert compare(reply(far), reply(box)).tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    assert compare('{"findings": [', reply(box)).tolist() == [0, 1, 0, 0, 0, 0, 1, 0]
    assert compare(reply(), reply()).tolist() == [0, 0, 0, 0, 0, 0, 0, 1]


# --- a training of four steps ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(settings: TrainingSettings) -> TrainingSettings:
    questions = {"short": (0.0, 0.0), "usual": (0.0, 0.0), "long": (0.0, 0.0), "look": (0.0, 0.0)}
    return replace(settings, steps=4, questions=questions | {"impression": (1.0, 1.0)})


@pytest.fixture
def fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.batches._IMPRESSION_ROWS", 2)
    monkeypatch.setattr("training.batches._LOOK_ROWS", 2)


@pytest.fixture
def quick_tokens(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    monkeypatch.setattr("training.state.train_vocabulary", lambda _settings: tokenizer)


def take_steps(folder: Path, settings: TrainingSettings, last: int) -> Training:
    training = open_training(folder, settings)
    trainer, batches = Trainer(training, settings, eager=True), StepBatches(settings, training.tokenizer)
    for step in range(training.step, last):
        trainer.step(batches[step])
    save_training(training, folder)
    return training


@pytest.mark.usefixtures("fewer_rows", "quick_tokens")
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: Path, small: TrainingSettings) -> None:
    whole = take_steps(tmp_path / "whole", small, 4)
    take_steps(tmp_path / "parts", small, 2)
    parts = take_steps(tmp_path / "parts", small, 4)
    assert parts.step == whole.step == 4
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(whole.optimiser.average, parts.optimiser.average, strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("fewer_rows", "quick_tokens")
def test_the_checkpoint_holds_the_average_and_loads_in_plain_transformers(
    tmp_path: Path, small: TrainingSettings
) -> None:
    training = take_steps(tmp_path / "state", small, 2)
    save_checkpoint(averaged_model(training), training, small, tmp_path / "checkpoint")
    loaded = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    for saved, average in zip(loaded.parameters(), training.optimiser.average, strict=True):
        assert torch.equal(saved, average.bfloat16().float())


@pytest.mark.usefixtures("fewer_rows", "quick_tokens")
def test_a_look_lowers_its_own_loss(tmp_path: Path, small: TrainingSettings) -> None:
    training = open_training(tmp_path, replace(small, learning_rate=0.01, steps=100))
    trainer = Trainer(training, small, eager=True)
    batch: Batch = StepBatches(small, training.tokenizer).draw(np.random.default_rng(0), "look", 0.5)
    losses = [trainer.step(batch)[0].reply.item() for _ in range(6)]
    assert losses[-1] < 0.7 * losses[0]
    assert all(weight.grad is None for weight in training.model.parameters())
