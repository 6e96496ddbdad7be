"""Loads a checkpoint folder into stock transformers' Qwen3-VL, in seconds.

On a GPU an empty model takes its weights straight from the files, piece by piece, and int8 layers are quantised there
row by row, as bitsandbytes would; transformers reads through mapped files and takes a detour over the host. Whatever is
unusual (another layout of names, a missing weight, nf4, no GPU) goes through transformers' own `from_pretrained`, which
knows what to say of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    Qwen3VLForConditionalGeneration,
)

from medvl.errors import ModelError
from medvl.reader.checkpoint import TensorPlace, list_shards, list_tensors
from medvl.reader.precision import LoadedPrecision, load_options, may_quantise
from medvl.reader.quiet import Progress, quiet_libraries
from medvl.reader.tensors import DTYPES, read_pieces

_ATTENTION = "sdpa"


def load_model(
    folder: Path, precision: LoadedPrecision, device: torch.device, progress: Progress | None = None
) -> tuple[Any, Any]:
    """Load a checkpoint: stock `Qwen3VLForConditionalGeneration` on the device, ready to read, and its tokenizer.

    progress: called with the share of the work done, 0 … 1.
    Raises ModelError if the folder holds no whole Qwen3-VL.
    """
    straight = device.type == "cuda" and precision != "nf4"
    try:
        with quiet_libraries(progress):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = load_straight(folder, precision, device, progress) if straight else None
            model = model or load_stock(folder, precision, device)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _unusable(folder, str(error).splitlines()[0]) from error
    # The checkpoint's own sampling advice would otherwise fill whatever we leave unset.
    model.generation_config = GenerationConfig()
    return model.eval(), tokenizer


def load_stock(folder: Path, precision: LoadedPrecision, device: torch.device) -> Any:
    """Load a checkpoint with transformers' own loader. Raises ModelError, OSError, ValueError or SafetensorError."""
    options = load_options(precision, device) | {"attn_implementation": _ATTENTION, "local_files_only": True}
    options |= {"ignore_mismatched_sizes": True}  # they are told of below; else a RuntimeError without their names
    model, told = Qwen3VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True, **options)
    # transformers would go on with random numbers in place of these.
    if lost := sorted(told["missing_keys"]) or sorted(name for name, *_ in told["mismatched_keys"]):
        raise _unusable(folder, f"{len(lost)} weights are missing or of the wrong size, the first is {lost[0]}")
    return model


def _unusable(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"The checkpoint in {folder} cannot be loaded: {why}",
        expected="A folder with config.json, a tokenizer and whole safetensors weights",
        todo="Check it with `medvl models verify`",
    )


def load_straight(
    folder: Path, precision: LoadedPrecision, device: torch.device, progress: Progress | None = None
) -> Any | None:
    """Load a checkpoint of today's layout without transformers' loader; None if it has any other.

    The bits are those that `from_pretrained` gives on a CPU. See `load_model`.
    Raises OSError or ValueError if a file cannot be read or is damaged.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    model = empty_model(config, precision, device)
    tensors = [tensor for shard in list_shards(folder) for tensor in _list_tensors(shard)]
    if not _fit(tensors, model):
        return None
    make_room(model, precision, device)
    _fill(model, tensors, device, progress)
    return model


def empty_model(config: Any, precision: LoadedPrecision, device: torch.device) -> Any:
    """Build a model without weights; what is computed rather than loaded is there, on the CPU."""
    dtype = load_options(precision, device)["dtype"]
    with init_empty_weights():
        return AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=_ATTENTION)


def make_room(model: Any, precision: LoadedPrecision, device: torch.device) -> None:
    """Give the weights of an empty model room on the device, layer after layer, and move there what was computed.

    precision: int8 or one that transformers' own layers compute in.
    """
    if precision == "int8":
        threshold = load_options(precision, device)["quantization_config"].llm_int8_threshold
        _put_int8_layers(model, device, threshold)
    for name, weight in list(_weights(model)):
        if weight.is_meta:
            _put(model, name, nn.Parameter(torch.empty_like(weight, device=device), requires_grad=False))
    for name, buffer in list(model.named_buffers()):
        _put(model, name, buffer.to(device))
    model.tie_weights()


def _list_tensors(shard: Path) -> tuple[TensorPlace, ...]:
    try:
        return list_tensors(shard)
    except ValueError as error:
        raise ValueError(f"{shard.name}: {error}") from error


def _fit(tensors: Sequence[TensorPlace], model: Any) -> bool:
    """Tell whether the files hold each of the model's weights once, in its shape, and nothing else."""
    found = {tensor.name: tensor.shape for tensor in tensors if tensor.dtype in DTYPES}
    return len(found) == len(tensors) and found == {name: tuple(weight.shape) for name, weight in _weights(model)}


def _weights(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield what is loaded, by name: all weights but those that are another's under a second name."""
    return ((name, weight) for name, weight in model.named_parameters() if name not in model.all_tied_weights_keys)


def _put_int8_layers(model: Any, device: torch.device, threshold: float) -> None:
    """Replace the text model's Linear layers by bitsandbytes', with room for their steps and scales on the device."""
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    layers = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear and may_quantise(name)}
    for name, layer in layers.items():
        layout = {"bias": False, "has_fp16_weights": False, "threshold": threshold, "device": "meta"}
        quantised = Linear8bitLt(layer.in_features, layer.out_features, **layout)
        steps = torch.empty(layer.weight.shape, dtype=torch.int8, device=device)
        scales = torch.empty(layer.out_features, dtype=torch.float32, device=device)
        quantised.weight = Int8Params(steps, requires_grad=False, has_fp16_weights=False, CB=steps, SCB=scales)
        quantised.bias = layer.bias
        model.set_submodule(name, quantised)


def _put(model: Any, name: str, tensor: Tensor) -> None:
    module, _, part = name.rpartition(".")
    setattr(model.get_submodule(module), part, tensor)


def _fill(model: Any, tensors: Sequence[TensorPlace], device: torch.device, progress: Progress | None) -> None:
    dtype, done, total = model.dtype, 0, sum(tensor.size_bytes for tensor in tensors)
    for tensor, rows, values in read_pieces(tensors, device):
        weight = model.get_parameter(tensor.name)
        if weight.dtype == torch.int8:
            weight.data[rows], weight.SCB[rows] = quantise_rows(values.to(dtype))
        else:
            weight.data[rows] = values
        done += values.nbytes
        if progress:
            progress(done / total)


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to 127 steps either side of nought: (steps (n, k) int8, largest magnitude (n,) float32).

    weight: (n, k); w ≈ steps · largest / 127. The same bits on every device, and those of bitsandbytes on a CPU, which
    goes through half precision, too. Source: LLM.int8() (Dettmers et al. 2022), section 2.1, vector-wise.
    """
    half = weight.to(torch.float16)
    largest = half.abs().amax(dim=1).float()
    per_step = (127 / largest).nan_to_num(posinf=0.0)  # a row of noughts
    return (half * per_step.unsqueeze(1)).round().to(torch.int8), largest
