from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from training.batches import Batch, StepBatches
from training.cases import draw_case
from training.chunks import draw_chunk, mark_nodules
from training.losses import (
    Helpers,
    corner_digits,
    corner_loss,
    judge_decisions,
    mark_loss,
    mark_targets,
    reply_losses,
)
from training.network import Read
from training.optimise import is_matrix, learning_rate, orthogonalise
from training.score import compare
from training.settings import TrainingSettings, between, load_settings
from training.state import Training, averaged_model, open_training, save_checkpoint, save_training
from training.train import Trainer, patch_rows
from training.wording import Segments, write_findings


def text_of(reply: Segments) -> str:
    return "".join(part for part, _ in reply)


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


def replies(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two replies of three tokens: a word, a decision, and a word or padding."""
    return {
        "targets": torch.tensor([[0, 2, 1], [0, 2, 1]]),
        "weights": torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        "decides": torch.tensor([[False, True, False]] * 2),
        "natural": torch.ones(2),
    } | changed


def test_padding_of_a_reply_costs_nothing() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[1, 2, 1] = 100.0
    # The first token is one of four by chance, ln 4 at weight 3; that at weight 1 is certain; the rest is no word.
    assert reply_losses(logits, replies())["reply"].item() == pytest.approx(3 * np.log(4) / 4)


def test_a_decision_counts_as_often_as_studies_ask_for_it() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[1, 1, 2] = 100.0
    # The first decision is one of four by chance, the second certain.
    assert reply_losses(logits, replies())["decisions"].item() == pytest.approx(np.log(4) / 2)
    rarer = replies(natural=torch.tensor([0.1, 1.9]))
    assert reply_losses(logits, rarer)["decisions"].item() == pytest.approx(0.1 * np.log(4) / 2)
    assert reply_losses(logits, rarer)["reply"] == reply_losses(logits, replies())["reply"]


def test_weighed_decisions_are_learnt_at_the_odds_of_studies() -> None:
    # Drawn: two with a finding, two without. In studies, one in ten has one, so they weigh 0.2 and 1.8.
    drawn = {
        "targets": torch.tensor([[1], [1], [0], [0]]),
        "weights": torch.ones(4, 1),
        "decides": torch.ones(4, 1, dtype=torch.bool),
        "natural": torch.tensor([0.2, 0.2, 1.8, 1.8]),
    }
    logits = torch.tensor([0.9, 0.1]).log().expand(4, 1, 2).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reply_losses(logits, drawn)["decisions"], logits)
    assert gradient.sum(dim=0).flatten().tolist() == pytest.approx([0, 0], abs=1e-7)  # 0.1 is where it rests


def test_a_mark_lies_in_the_token_that_holds_the_middle_of_the_nodule() -> None:
    marks = torch.tensor([[[[1.0, 0.60, 0.30, 0.05, 0.1], [0.0, 0.1, 0.1, 0.1, 0.1], [1.0, 1.02, 0.3, 0.05, 0.05]]]])
    targets = mark_targets(marks, 4)
    assert targets.shape == (1, 1, 16, 5)
    assert targets[0, 0, 1 * 4 + 2].tolist() == pytest.approx([1.0, 0.4, 0.2, 0.2, 0.4])
    assert targets[..., 0].sum() == 1  # the second is not there, the third lies right of the picture


def test_the_corners_of_a_mark_are_spelt_as_the_reply_writes_them() -> None:
    case = draw_case(3, enriched=True)
    rng = np.random.default_rng(0)
    chunks = [chunk for _ in range(30) if (chunk := draw_chunk(rng, [case], 6, aimed=1.0)).kind == "ordinary"]
    compared = 0
    for chunk in chunks:
        written = [one["bbox_2d"] for one in json.loads(text_of(write_findings(chunk, "en")))["findings"]]
        likely = corner_digits(torch.from_numpy(mark_nodules(case, chunk.scan, 6))).argmax(-1)
        tens = (likely * torch.tensor([10, 1])).sum(-1).tolist()
        safe = [[2 <= corner % 10 <= 7 for corner in box] for box in written]  # away from the border of two digits
        for sight in chunk.sights:
            if sight.kind != "pleural effusion":
                compared += 1
                assert any(
                    all(ten == corner // 10 for ten, corner, sure in zip(box, said, near, strict=True) if sure)
                    for said, near in zip(written, safe, strict=True)
                    for box in tens[sight.key]
                )
    assert compared > 10


def test_a_corner_at_the_border_of_two_digits_may_be_either() -> None:
    digits = corner_digits(torch.tensor([[[[1.0, 0.3, 0.4995, 0.045, 0.1]]]]))[0, 0, 0]
    assert digits.shape == (4, 2, 10)
    assert digits.sum(-1) == pytest.approx(torch.ones(4, 2))
    # Left is 255, five units from either border, right 345; the middle of the picture is 499.5, its upper end 399.5.
    assert digits[0].argmax(-1).tolist() == [2, 5] and digits[0].amax() > 0.99
    hundreds, tens = digits[1]
    assert hundreds[[3, 4]].tolist() == pytest.approx([0.5, 0.5], abs=0.13)
    assert tens[[9, 0]].tolist() == pytest.approx([0.5, 0.5], abs=0.13)


def test_corners_are_taught_only_where_a_nodule_lies() -> None:
    torch.manual_seed(0)
    helpers = Helpers(8, 16)
    read = Read(torch.zeros(1, 1, 1), torch.randn(2 * 16, 16, requires_grad=True))
    marks = torch.zeros(1, 2, 2, 5)
    assert corner_loss(helpers, read, marks, 4).item() == 0
    marks[0, 1, 0] = torch.tensor([1.0, 0.60, 0.30, 0.05, 0.1])
    loss = corner_loss(helpers, read, marks, 4)
    (gradient,) = torch.autograd.grad(loss, read.middle)
    assert gradient.abs().sum(1).nonzero().flatten().tolist() == [16 + 1 * 4 + 2]
    with torch.no_grad():  # certain of 55., 20., 65., 40., all of which lie in the middle of their tens
        marks[0, 1, 0] = torch.tensor([1.0, 0.605, 0.305, 0.05, 0.1])
        helpers.corner.weight.zero_()
        for place, digit in enumerate((5, 5, 2, 0, 6, 5, 4, 0)):
            helpers.corner.bias[10 * place + digit] = 5.0
    # Certain to e⁻⁵: ln(1 + 9 e⁻⁵) = 0.059; the half per cent that spreads beyond the tens costs 5 each.
    assert corner_loss(helpers, read, marks, 4).item() == pytest.approx(0.059, abs=0.02)


def test_a_nodules_place_costs_the_same_however_few_there_are() -> None:
    def head(tokens: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, 0.5, 0.5, 0.0, 0.0]).expand(len(tokens), 5)

    one = torch.zeros(1, 2, 4, 5)
    one[0, 1, 0] = torch.tensor([1.0, 0.60, 0.30, 0.05, 0.1])
    two = one.clone()
    two[0, 0, 0] = one[0, 1, 0]
    tokens = torch.zeros(32, 8)
    first, second = (mark_loss(head, tokens, marks, 4).item() for marks in (one, two))
    # In tokens, 0.4, 0.2, 0.2, 0.4 against 0.5, 0.5, 0, 0: a mean of 0.25, twice; there or not is ln 2 for each of 32
    # tokens, eight times that where there is one, over 2 pictures of 20.
    assert first == pytest.approx(0.5 + np.log(2) * (31 + 8) / 40, abs=1e-5)
    assert second - first == pytest.approx(np.log(2) * 7 / 40, abs=1e-5)


def test_first_decisions_are_judged_apart() -> None:
    logits = torch.zeros(4, 2, 3)
    logits[:, 1, 2] = 1.0  # every row says 2
    inputs = {
        "decides": torch.tensor([[False, True]] * 4),
        "targets": torch.tensor([[0, 2], [0, 1], [0, 2], [0, 1]]),
        "present": torch.tensor([True, True, True, False]),
    }
    judged = judge_decisions(logits, inputs)
    assert (judged["found"].item(), judged["false"].item()) == (pytest.approx(2 / 3), 1.0)


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
    quick = replace(small, learning_rate=0.01, steps=100)
    training = open_training(tmp_path, quick)
    trainer = Trainer(training, quick, eager=True)
    batch: Batch = StepBatches(small, training.tokenizer).draw(np.random.default_rng(0), "look", 0.5)
    losses = [{name: loss.item() for name, loss in trainer.step(batch).items()} for _ in range(6)]
    assert all(losses[-1][name] < 0.7 * losses[0][name] for name in ("reply", "decisions"))
    assert all(weight.grad is None for weight in training.model.parameters())
