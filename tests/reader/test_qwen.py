from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

import medvl.reader.memory
import medvl.reader.stock
from medvl.errors import ModelError, OutOfMemoryError
from medvl.reader.identity import Sampling
from medvl.reader.masks import unpack_mask
from medvl.reader.prompting import prompt_ids
from medvl.reader.protocol import Reader
from medvl.reader.qwen import QwenReader, load_qwen_reader
from medvl.reader.weights import ModelLocation
from medvl.settings import Precision
from tests.reader.requests import make_request, read

Load = Callable[[Precision], QwenReader]
MIXED = [
    make_request(3),
    make_request(1, size_px=128, text="Chest."),
    make_request(0, text="No picture at all."),
    make_request(2, size_px=96, seed=7),
]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_batch_is_answered_as_its_requests_are_one_by_one(load_tiny: Load, precision: Precision) -> None:
    reader: Reader = load_tiny(precision)
    together = read(reader, MIXED)
    alone = [read(reader, [request])[0] for request in MIXED]
    assert [reading.text for reading in together] == [reading.text for reading in alone]
    assert [reading.prompt_token_count for reading in together] == [reading.prompt_token_count for reading in alone]
    for ours, theirs in zip(together, alone, strict=True):
        # int8 rounds activations, and bitsandbytes looks for outliers over the whole batch
        assert [t.probability for t in ours.tokens] == pytest.approx([t.probability for t in theirs.tokens], abs=5e-3)


@pytest.mark.parametrize("precision", ["fp32", "int8", "nf4", "bf16"])
def test_a_random_model_writes_valid_bounded_json(load_tiny: Load, precision: Precision) -> None:
    requests = [make_request(pictures, cap=400, seed=seed) for pictures in (1, 2) for seed in (1, 2)]
    for reading in read(load_tiny(precision), requests):
        assert reading.complete
        findings = json.loads(reading.text)["findings"]
        assert len(findings) <= 3
        for finding in findings:
            assert list(finding) == ["slice", "side", "site"]
            assert 1 <= finding["slice"] <= 4
            assert finding["side"] in ("left", "right")
            assert 1 <= len(finding["site"]) <= 12


def test_token_texts_add_up_to_the_reply_and_have_probabilities(load_tiny: Load) -> None:
    for reading in read(load_tiny("fp32"), MIXED):
        assert "".join(token.text for token in reading.tokens) == reading.text
        assert all(0 < token.probability <= 1 for token in reading.tokens)
        assert any(token.probability < 1 for token in reading.tokens)
        assert reading.seconds > 0


def test_probabilities_and_choices_are_those_of_the_plain_model(load_tiny: Load) -> None:
    reader = load_tiny("fp32")
    request = make_request(1, schema=None, cap=6)
    (reading,) = read(reader, [request])
    writer: Any = reader._writer
    inputs = writer.inputs([prompt_ids(writer._chat, request, writer._shape)], [request])
    mask = writer._grammars.new_mask(1)
    writer._grammars.fill(mask, [(0, writer._grammars.start(None))])
    allowed = unpack_mask(torch.from_numpy(mask), writer._grammars.vocab)[0]
    with torch.inference_mode():
        scores = reader._model(**inputs).logits[0, -1].masked_fill(~allowed, -torch.inf)
    best = scores.softmax(-1).max(-1)
    assert reading.tokens[0].text == writer._grammars.spell(int(best.indices)).decode(errors="replace")
    assert reading.tokens[0].probability == pytest.approx(float(best.values), rel=1e-4)


def test_prompt_tokens_are_counted_without_padding(load_tiny: Load) -> None:
    long, short = make_request(4, size_px=64), make_request(0)
    counts = [reading.prompt_token_count for reading in read(load_tiny("fp32"), [long, short])]
    texts_per_picture = counts[0] - counts[1] - 4 * (2 * 2 + 2)  # 64² is 2 × 2 vision tokens between two marks
    assert texts_per_picture > 0
    assert counts[1] == read(load_tiny("fp32"), [short])[0].prompt_token_count


def test_a_reply_that_meets_its_cap_is_incomplete_and_the_others_go_on(load_tiny: Load) -> None:
    capped, whole = read(load_tiny("fp32"), [make_request(1, cap=3), make_request(1, cap=400)])
    assert (len(capped.tokens), capped.complete) == (3, False)
    assert whole.complete
    assert whole.text.startswith(capped.text)


def test_free_text_is_written_without_a_schema(load_tiny: Load) -> None:
    (reading,) = read(load_tiny("fp32"), [make_request(1, schema=None, cap=8)])
    assert 0 < len(reading.tokens) <= 8
    assert "<|" not in reading.text


def test_grey_and_the_same_in_colour_are_read_alike(load_tiny: Load) -> None:
    grey = make_request(1)
    text, picture, *rest = grey.parts
    colour = replace(grey, parts=(text, np.repeat(picture[..., None], 3, axis=2), *rest))
    (ours,), (theirs,) = read(load_tiny("fp32"), [colour]), read(load_tiny("fp32"), [grey])
    assert ours.text == theirs.text


def test_a_read_only_flipped_view_is_read_like_its_copy(load_tiny: Load) -> None:
    plain = make_request(1)
    text, picture, *rest = plain.parts
    upright = np.ascontiguousarray(picture[::-1])
    upright.flags.writeable = False
    view = replace(plain, parts=(text, upright[::-1], *rest))
    assert read(load_tiny("fp32"), [view])[0].text == read(load_tiny("fp32"), [plain])[0].text


def test_other_pictures_give_other_probabilities(load_tiny: Load) -> None:
    ours, theirs = read(load_tiny("fp32"), [make_request(1, seed=1), make_request(1, seed=2)])
    assert [token.probability for token in ours.tokens] != [token.probability for token in theirs.tokens]


def test_no_requests_are_no_readings(load_tiny: Load) -> None:
    assert read(load_tiny("fp32"), []) == []


def test_a_picture_that_is_no_multiple_of_32_is_a_bug(load_tiny: Load) -> None:
    with pytest.raises(ValueError, match="40 × 40; sides must be multiples of 32"):
        read(load_tiny("fp32"), [make_request(1, size_px=40)])


def test_sampling_with_one_seed_repeats_and_with_another_differs(tiny: ModelLocation) -> None:
    request = make_request(1, schema=None, cap=24)

    def text(seed: int) -> str:
        reader = load_qwen_reader(tiny, "fp32", sampling=Sampling(temperature=1.5, seed=seed))
        first, again = read(reader, [request])[0].text, read(reader, [request])[0].text
        assert first == again
        return first

    assert text(1) != text(2)


def test_sampling_leaves_the_callers_random_numbers_alone(tiny: ModelLocation) -> None:
    reader = load_qwen_reader(tiny, "fp32", sampling=Sampling(temperature=1.0, seed=3))
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    read(reader, [make_request(1, cap=3)])
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 20.00 GiB"),
        (RuntimeError, "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        (RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        (MemoryError, ""),
    ],
)
def test_running_out_of_memory_is_a_sentence_and_gives_the_batch_back(
    load_tiny: Load, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def fail(_model: Any, inputs: dict[str, torch.Tensor], *_: Any) -> None:
        held.append(weakref.ref(inputs["pixel_values"]))
        raise kind(message)

    monkeypatch.setattr(medvl.reader.stock, "write_replies", fail)
    monkeypatch.setattr(medvl.reader.memory, "release", lambda: alive.append(held[0]() is not None))
    with pytest.raises(OutOfMemoryError, match="2 requests at once did not fit"):
        read(load_tiny("fp32"), [make_request(1), make_request(2)], 2)
    assert alive == [False]


def test_another_runtime_error_stays_what_it_is(load_tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(medvl.reader.stock, "write_replies", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        read(load_tiny("fp32"), [make_request(1)])


def test_an_interrupt_while_reading_passes_through_and_the_reader_still_works(
    load_tiny: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = load_tiny("fp32")

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt("stop")

    with monkeypatch.context() as patched:
        patched.setattr(reader._writer._grammars, "spell", interrupt)  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt, match="stop"):
            read(reader, [make_request(1, cap=3)])
    assert read(reader, [make_request(1, cap=3)])[0].tokens


def test_loading_reports_its_progress(tiny: ModelLocation) -> None:
    shares: list[float] = []
    load_qwen_reader(tiny, "fp32", progress=shares.append)
    assert shares == sorted(shares)
    assert (shares[0] < 0.1, shares[-1]) == (True, 1.0)


def test_loading_and_reading_write_nothing_to_the_terminal(tiny: ModelLocation, capfd: pytest.CaptureFixture) -> None:
    read(load_qwen_reader(tiny, "int8"), [make_request(1, cap=4)])
    assert capfd.readouterr() == ("", "")


def test_the_identity_says_what_reads(load_tiny: Load) -> None:
    identity = load_tiny("int8").identity
    assert (identity.model, identity.precision, identity.generation) == ("tiny", "int8", "greedy")
    assert identity.warning == "random weights: findings are meaningless"
    assert len(identity.fingerprint) == 64
    assert {"torch", "transformers", "bitsandbytes"} <= dict(identity.versions).keys()


def test_another_architecture_is_refused_by_name(tiny_copy: Path) -> None:
    config = json.loads((tiny_copy / "config.json").read_text())
    (tiny_copy / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ModelError, match=r"holds LlamaForCausalLM\. medvl reads with Qwen3VLForCond"):
        load_qwen_reader(ModelLocation("other", tiny_copy, "folder"), "fp32")


def test_weights_cut_short_are_refused(tiny_copy: Path) -> None:
    weights = tiny_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_qwen_reader(ModelLocation("cut", tiny_copy, "folder"), "fp32")


def test_a_missing_weight_is_refused_rather_than_made_up(tiny_copy: Path) -> None:
    weights = load_file(tiny_copy / "model.safetensors")
    del weights["model.language_model.layers.2.mlp.up_proj.weight"]
    save_file(weights, tiny_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing.*layers\.2\.mlp\.up_proj"):
        load_qwen_reader(ModelLocation("hole", tiny_copy, "folder"), "fp32")


def test_the_checkpoint_loads_in_plain_transformers(tiny_folder: Path) -> None:
    model = Qwen3VLForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32)
    assert sum(weight.numel() for weight in model.parameters()) == 3_222_912
