from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import int8_vectorwise_quant
from safetensors.torch import load_file, save_file

import medvl.reader.loading
import medvl.reader.tensors
from medvl.errors import ModelError
from medvl.reader.loading import load_model, load_straight, quantise_rows
from medvl.reader.precision import LoadedPrecision, check_precision
from medvl.reader.quiet import quiet_libraries
from medvl.reader.tensors import read_pieces

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"
UP = "model.language_model.layers.2.mlp.up_proj.weight"


def straight(folder: Path, precision: LoadedPrecision = "int8", **given: Any) -> Any:
    with quiet_libraries():
        return load_straight(folder, precision, CPU, **given)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"] | values
    (folder / "config.json").write_text(json.dumps(config | values | {"text_config": text}))


def assert_same_bits(ours: Any, theirs: Any) -> None:
    mine, other = ours.state_dict() | dict(ours.named_buffers()), theirs.state_dict() | dict(theirs.named_buffers())
    assert mine.keys() == other.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


@pytest.fixture(scope="module")
def stock(tiny_folder: Path) -> Callable[[LoadedPrecision], Any]:
    """The tiny checkpoint through transformers' own loader."""
    return lambda precision: load_model(tiny_folder, precision, CPU)[0]


@pytest.mark.parametrize("precision", ["int8", "bf16", "fp32"])
def test_loading_straight_gives_the_bits_transformers_gives(
    tiny_folder: Path, stock: Callable[[LoadedPrecision], Any], precision: LoadedPrecision
) -> None:
    model = straight(tiny_folder, precision)
    check_precision(model, precision)
    assert_same_bits(model, stock(precision))
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_int8_layers_loaded_straight_compute_as_transformers_do(
    tiny_folder: Path, stock: Callable[[LoadedPrecision], Any]
) -> None:
    ids = torch.tensor([[5, 80, 700, 3000]])
    with quiet_libraries(), torch.inference_mode():
        ours, theirs = straight(tiny_folder).eval()(ids).logits, stock("int8")(ids).logits
    assert torch.equal(ours, theirs)


def test_tensors_larger_than_a_piece_are_put_together(
    tiny_folder: Path, stock: Callable[[LoadedPrecision], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(medvl.reader.tensors, "_PIECE_BYTES", 5000)  # 19 rows of 128 bfloat16, and a remainder
    assert_same_bits(straight(tiny_folder), stock("int8"))


def test_a_checkpoint_in_several_files_is_one_model(tiny_copy: Path, stock: Callable[[LoadedPrecision], Any]) -> None:
    weights = load_file(tiny_copy / WEIGHTS)
    files = {name: f"model-0000{number % 3 + 1}-of-00003.safetensors" for number, name in enumerate(weights)}
    for file in set(files.values()):
        save_file({name: weights[name] for name in weights if files[name] == file}, tiny_copy / file)
    (tiny_copy / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (tiny_copy / WEIGHTS).unlink()
    assert_same_bits(straight(tiny_copy), stock("int8"))


def test_an_output_matrix_of_its_own_is_loaded_and_not_tied(tiny_copy: Path) -> None:
    head = torch.randn(3072, 128).bfloat16()
    change_weights(tiny_copy, lambda weights: weights.update({"lm_head.weight": head}))
    change_config(tiny_copy, tie_word_embeddings=False)
    model = straight(tiny_copy)
    assert torch.equal(model.lm_head.weight, head.float())
    assert_same_bits(model, load_model(tiny_copy, "int8", CPU)[0])


def test_a_quantised_layer_has_its_bias_beside_it(tiny_copy: Path) -> None:
    matrices = {name: w for name, w in load_file(tiny_copy / WEIGHTS).items() if name.endswith("_proj.weight")}
    biases = {
        f"{name.removesuffix('weight')}bias": torch.randn(len(matrix))
        for name, matrix in matrices.items()
        if "self_attn" in name
    }
    assert len(biases) == 4 * 4
    change_weights(tiny_copy, lambda weights: weights.update(biases))
    change_config(tiny_copy, attention_bias=True)
    model = straight(tiny_copy)
    assert all(torch.equal(model.get_parameter(name), bias) for name, bias in biases.items())
    assert_same_bits(model, load_model(tiny_copy, "int8", CPU)[0])


def test_weights_of_another_type_are_cast_before_they_are_quantised(tiny_copy: Path) -> None:
    change_weights(tiny_copy, lambda weights: weights.update({name: t.float() for name, t in weights.items()}))
    change_weights(tiny_copy, lambda weights: weights[UP].mul_(1.001))
    for precision in ("int8", "bf16"):
        assert_same_bits(straight(tiny_copy, precision), load_model(tiny_copy, precision, CPU)[0])


def drop_a_weight(weights: dict[str, torch.Tensor]) -> None:
    del weights[UP]


def cut_a_row(weights: dict[str, torch.Tensor]) -> None:
    weights[UP] = weights[UP][:-1].clone()


def name_as_before(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if name.startswith("model.language_model.")]:
        weights[name.replace("model.language_model.", "model.")] = weights.pop(name)


def double_the_head(weights: dict[str, torch.Tensor]) -> None:
    weights["lm_head.weight"] = weights["model.language_model.embed_tokens.weight"].clone()


def use_another_type(weights: dict[str, torch.Tensor]) -> None:
    weights[UP] = weights[UP].double()


@pytest.mark.parametrize("change", [drop_a_weight, cut_a_row, name_as_before, double_the_head, use_another_type])
def test_what_is_unusual_is_left_to_transformers(tiny_copy: Path, change: Callable[..., None]) -> None:
    change_weights(tiny_copy, change)
    assert straight(tiny_copy) is None


def test_a_weight_of_the_wrong_size_is_refused(tiny_copy: Path) -> None:
    change_weights(tiny_copy, cut_a_row)
    with pytest.raises(ModelError, match=rf"1 weights are missing or of the wrong size, the first is {UP}"):
        load_model(tiny_copy, "fp32", CPU)


def test_a_file_cut_short_is_named(tiny_copy: Path) -> None:
    (tiny_copy / WEIGHTS).write_bytes((tiny_copy / WEIGHTS).read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors: it has \d+ bytes; its header asks for \d+"):
        straight(tiny_copy)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(4, 4)}, path)
    (tensor,) = medvl.reader.loading._list_tensors(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(OSError, match=r"w\.safetensors ends inside a"):
        list(read_pieces([tensor], CPU))


def test_rows_are_rounded_to_127_steps_of_their_largest() -> None:
    # 0.5 · 127 / 2 = 31.75 and 1 · 127 / 2 = 63.5, a tie that goes to the even 64
    steps, largest = quantise_rows(torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [3.0, 3.0, -3.0]]))
    assert steps.tolist() == [[64, -127, 32], [0, 0, 0], [127, 127, -127]]
    assert largest.tolist() == [2.0, 0.0, 3.0]


@pytest.mark.parametrize(("rows", "columns", "spread"), [(1, 1, 1.0), (7, 33, 1e-3), (300, 257, 1.0), (64, 4096, 40.0)])
def test_rows_are_quantised_to_the_bits_of_bitsandbytes(rows: int, columns: int, spread: float) -> None:
    weight = (torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * spread).bfloat16()
    weight[0, 0] *= 50
    weight[rows // 2] *= 0 if rows > 1 else 1
    steps, largest = quantise_rows(weight)
    their_steps, their_largest, _ = int8_vectorwise_quant(weight.half())
    assert torch.equal(steps, their_steps)
    assert torch.equal(largest, their_largest)


def test_progress_grows_to_one(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medvl.reader.tensors, "_PIECE_BYTES", 100_000)
    shares: list[float] = []
    straight(tiny_folder, progress=shares.append)
    assert shares == sorted(shares)
    assert (shares[0] < 0.1, len(shares) > 20, shares[-1]) == (True, True, 1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["int8", "bf16", "fp32"])
def test_a_gpu_holds_the_bits_a_cpu_would(tiny_folder: Path, precision: LoadedPrecision) -> None:
    there = load_model(tiny_folder, precision, torch.device("cuda"))[0]
    here = straight(tiny_folder, precision).state_dict()
    for name, tensor in there.state_dict().items():
        assert torch.equal(tensor.cpu().to(here[name].dtype), here[name]), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_never_holds_much_more_than_the_finished_weights(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(medvl.reader.tensors, "_PIECE_BYTES", 20_000)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = load_model(tiny_folder, "int8", torch.device("cuda"))[0]
    held = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values() if tensor.is_cuda}
    # The quantised layers alone have 983,040 weights: 2 MB in bfloat16.
    assert torch.cuda.max_memory_allocated() - before < sum(held.values()) + 500_000
