"""The committed checkpoint: whole, small, and the same through medvl as through plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from medvl.bundled import bundled_path
from medvl.findings.schema import reply_schema
from medvl.prompts import ReadFacts, load_prompt
from medvl.reader.checkpoint import find_damage, read_preferences
from medvl.reader.patches import cut_patches
from medvl.reader.qwen import load_qwen_reader
from medvl.reader.weights import ModelLocation
from medvl.records import Request
from training.batches import stack_scans
from training.chunks import scan_of
from training.pictures import Painter
from training.settings import load_settings

DEMO = bundled_path("demo_model")
pytestmark = pytest.mark.skipif(not (DEMO / "config.json").exists(), reason="the demo model is not in this checkout")


def test_the_checkpoint_is_whole_and_small_enough_for_a_repository() -> None:
    assert find_damage(DEMO) == {}
    sizes = [path.stat().st_size for path in DEMO.iterdir()]
    assert max(sizes) <= 15_100_000 and sum(sizes) < 25_000_000


def test_the_checkpoint_prefers_what_it_does_best_with() -> None:
    settings, preferences = load_settings(), read_preferences(DEMO)
    assert (preferences.size_px, preferences.slab, preferences.chunk) == (settings.size_px, "auto", "4")
    assert (preferences.prompt, preferences.windows) == ("chest_ct", ("lung",))
    assert "never for patients" in preferences.warning


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Three pictures through a nodule of 14 mm, made as the training made its own."""
    from medvl.evaluate.acquisition import Acquisition
    from medvl.evaluate.phantoms import Wish, draw_phantom

    phantom = draw_phantom(41, [Wish("solid nodule", 14.0, "right")])
    middle = float(phantom.scene.nodules[0].z)
    taken = scan_of(Acquisition(pixel_spacing_mm=0.75, slice_thickness_mm=5.0), middle + np.array([5.0, 0.0, -5.0]), 1)
    scans = {name: torch.from_numpy(values) for name, values in stack_scans([taken], [0], 3).items()}
    painter, values = Painter(eager=True), torch.from_numpy(phantom.values)[None]
    white = torch.randn(1, 3, 514, 514, generator=torch.Generator().manual_seed(0))
    return painter.show(values, scans, white, 448).grey[0].numpy()


@pytest.fixture(scope="module")
def request_(pictures: np.ndarray) -> Request:
    facts = ReadFacts("CT", "CHEST", "axial", "lung WL −600 WW 1500", 3, 5.0)
    text = load_prompt("chest_ct", "en").render(facts, (5.0, 0.0, -5.0))
    parts: list[Any] = [text.instruction]
    for picture, label in zip(pictures, text.labels, strict=True):
        parts += [picture, label]
    return Request((*parts, text.query), reply_schema(3), 300)


def plain_reply(request: Request, folder: Path) -> str:
    """Reply with nothing but transformers and the stock chat form."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in request.parts]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    pictures = np.stack([part for part in request.parts if not isinstance(part, str)])
    ids = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * 196), return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            pixel_values=cut_patches(torch.from_numpy(pictures), load_settings().shape),
            image_grid_thw=torch.tensor([[1, 28, 28]] * len(pictures)),
            max_new_tokens=request.max_new_tokens,
            do_sample=False,
        )
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))


def test_the_reader_and_plain_transformers_find_the_same_nodule(request_: Request) -> None:
    reader = load_qwen_reader(ModelLocation("demo", DEMO, "folder"), "fp32")
    ((_, reading),) = reader.read([request_], rows=1)
    reader.close()
    assert reading.text == plain_reply(request_, DEMO)
    found = [(one["observation"], one["side"], one["slice"]) for one in json.loads(reading.text)["findings"]]
    assert ("solid nodule", "right", 2) in found
