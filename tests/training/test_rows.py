from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvl.dicom.grey import render
from medvl.dicom.scan import scan
from medvl.evaluate.acquisition import STORAGES, Acquisition
from medvl.evaluate.phantoms import draw_phantom
from medvl.evaluate.write import write_study
from medvl.pipeline.reading import prompt_text
from medvl.pipeline.views import Wanted, cut_chunks, plan_views
from medvl.prompts import PromptText, load_prompts
from training.chunks import Chunk, scan_of
from training.rows import Layout, RowWriter, prompt_parts, stack_rows
from training.wording import DECISIVE, Question, ask_reading, write_findings

LAYOUT = Layout(slots=2, grid=2, length=96, reply=16)
ONE = Question(PromptText("Look.", ("SLICE 1",), "Well?"), [('{"findings": [', 0.5), ("]", DECISIVE), ("}", 0.5)])


@pytest.fixture(scope="module")
def writer(tokenizer: Any) -> RowWriter:
    return RowWriter(tokenizer)


def test_a_reply_is_predicted_token_by_token(writer: RowWriter, tokenizer: Any) -> None:
    row = writer.write(ONE, LAYOUT)
    assert row is not None
    asked = (row.weights > 0) | row.decides
    assert tokenizer.decode(row.targets[asked]) == '{"findings": []}<|im_end|>'
    assert (row.ids[row.read_at[asked] + 1] == row.targets[asked]).all()


def test_the_token_that_says_whether_there_is_a_finding_is_no_word(writer: RowWriter, tokenizer: Any) -> None:
    row = writer.write(ONE, LAYOUT)
    assert row is not None
    assert row.decides.sum() == 1
    assert "]" in tokenizer.decode(row.targets[row.decides])
    assert not row.weights[row.decides].any()
    assert sorted(set(row.weights.tolist())) == [0.0, 0.5, 1.0]  # padding and the decision, words, the end


def test_unused_slots_point_at_padding(writer: RowWriter, tokenizer: Any) -> None:
    row = writer.write(ONE, LAYOUT)
    assert row is not None
    assert (row.ids[row.pictures[:4]] == tokenizer.convert_tokens_to_ids("<|image_pad|>")).all()
    assert row.pictures[4:].tolist() == [95] * 4
    batch = stack_rows([row, row])
    assert batch["pictures"][8:].tolist() == (row.pictures + 96).tolist()


def test_what_is_too_long_is_not_cut(writer: RowWriter) -> None:
    assert writer.write(ONE, replace(LAYOUT, length=20)) is None
    assert writer.write(ONE, replace(LAYOUT, reply=3)) is None


def test_a_question_without_pictures_is_one_text() -> None:
    assert prompt_parts(PromptText("List.", (), ""), 4) == ["List.\n\n"]


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.name)
def test_training_asks_and_shows_what_the_pipeline_does(tmp_path: Path, storage: Any) -> None:
    torch = pytest.importorskip("torch")
    from training.batches import stack_scans
    from training.pictures import Painter

    taken = Acquisition(
        pixel_spacing_mm=3.0, slice_thickness_mm=1.5, slice_spacing_mm=1.5, bottom_mm=-40.0, slice_count=4,
        size_px=128, blur_mm=3.0, noise_hu=0.0, storage=storage,
    )  # fmt: skip
    phantom = draw_phantom(5, [])
    write_study(phantom, tmp_path, taken)
    wanted = Wanted(windows=("lung",), size_px=96, prompt="chest_ct")
    planned = cut_chunks(plan_views(scan([tmp_path]).studies[0], wanted, load_prompts()), 8).views[0]
    slabs = planned.view.chunks[0].slabs

    heights = np.array([-40 + 1.5 * 2.5, -40 + 1.5 * 0.5])  # means of two slices, from the head downwards
    ours = scan_of(taken, heights, 2)
    chunk = Chunk(0, "ordinary", ours, (), 3.0, 3.0, phantom.origin_lps_mm[2])
    asked = {ask_reading(np.random.default_rng(seed), chunk).text for seed in range(40)}
    assert prompt_text(planned, slabs) in asked

    theirs = np.stack([render(slab, planned.view.rendering, planned.view.stack.turn).grey for slab in slabs])
    scans = {name: torch.from_numpy(values) for name, values in stack_scans([ours], [0], 2).items()}
    values = torch.from_numpy(phantom.values)[None]
    shown = Painter(eager=True).show(values, scans, torch.zeros(1, 2, 130, 130), 96).grey[0].numpy()
    difference = np.abs(shown.astype(int) - theirs.astype(int))
    assert difference.mean() < 0.5
    assert np.percentile(difference, 99) <= 8


def test_an_empty_reply_is_short(writer: RowWriter) -> None:
    scan_ = scan_of(Acquisition(), np.zeros(2), 1)
    reply = write_findings(Chunk(0, "blank", scan_, (), 3.0, None, 0.0), "en")
    assert "".join(part for part, _ in reply) == '{"findings": []}'
