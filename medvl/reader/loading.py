"""Loads a checkpoint folder into stock transformers' Qwen3-VL, in seconds.

On a GPU the weights go there straight from the files, and int8 layers are quantised there row by row, as bitsandbytes
would; transformers reads through mapped files and takes a detour over the host. Whatever is unusual (another layout of
names, a missing weight, nf4, no GPU) goes through transformers' own `from_pretrained`, which knows what to say of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from medvl.reader.checkpoint import TensorPlace, list_shards, read_weight_file
from medvl.reader.kept import Keeping, kept_form
from medvl.reader.precision import LoadedPrecision, load_options, may_quantise
from medvl.reader.quiet import Progress, quiet_libraries
from medvl.reader.tensors import DTYPES, file_bytes, read_pieces, write_tensors
from medvl.reader.weights import ModelLocation

_ATTENTION = "sdpa"
_SCALES = "SCB"  # bitsandbytes' name for the largest magnitude of each row


def load_model(
    location: ModelLocation,
    precision: LoadedPrecision,
    device: torch.device,
    *,
    progress: Progress | None = None,
    keeping: Keeping | None = None,
) -> tuple[Any, Any]:
    """Load a checkpoint: stock `Qwen3VLForConditionalGeneration` on the device, ready to read, and its tokenizer.

    progress: called with the share of the work done, 0 … 1.
    keeping: where int8 weights may be kept for the next start; nowhere unless given.
    Raises ModelError if the folder holds no whole Qwen3-VL.
    """
    straight = device.type == "cuda" and precision != "nf4"
    try:
        with quiet_libraries(progress):
            tokenizer = AutoTokenizer.from_pretrained(location.folder, local_files_only=True)
            model = load_straight(location, precision, device, progress, keeping) if straight else None
            model = model or load_stock(location.folder, precision, device)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _unusable(location.folder, str(error).splitlines()[0]) from error
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
    location: ModelLocation,
    precision: LoadedPrecision,
    device: torch.device,
    progress: Progress | None = None,
    keeping: Keeping | None = None,
) -> Any | None:
    """Load a checkpoint of today's layout without transformers' loader; None if it has any other.

    The bits are those that `from_pretrained` gives on a CPU. See `load_model`.
    Raises OSError or ValueError if a file cannot be read or is damaged.
    """
    model = _empty_model(location.folder, precision, device)
    room = _make_room(model, device)
    if keeping and precision == "int8" and location.origin != "demo":  # which is too small to be worth it
        whole = _fill_and_keep(room, location, model.dtype, progress, keeping)
    else:
        whole = _fill_from_checkpoint(room, location.folder, model.dtype, _Share(progress))
    if not whole:
        return None
    _install(model, room, device)
    if progress:
        progress(1.0)
    return model


def _empty_model(folder: Path, precision: LoadedPrecision, device: torch.device) -> Any:
    """Build the model without weights; what is computed rather than loaded is there, on the CPU."""
    options = load_options(precision, device)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=options["dtype"], attn_implementation=_ATTENTION)
    if precision == "int8":
        _put_int8_layers(model, options["quantization_config"].llm_int8_threshold)
    return model


def _put_int8_layers(model: Any, threshold: float) -> None:
    from bitsandbytes.nn import Linear8bitLt

    layers = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear and may_quantise(name)}
    for name, layer in layers.items():
        layout = {"bias": layer.bias is not None, "has_fp16_weights": False, "threshold": threshold, "device": "meta"}
        model.set_submodule(name, Linear8bitLt(layer.in_features, layer.out_features, **layout))


def _make_room(model: Any, device: torch.device) -> dict[str, Tensor]:
    """Return empty tensors on the device for all that is loaded, by name; an int8 layer's scales are named as well."""
    room = {}
    for name, empty in model.state_dict().items():
        if name in model.all_tied_weights_keys:
            continue
        if _is_int8(model, name):
            room[name] = torch.empty(empty.shape, dtype=torch.int8, device=device)
            room[_scales_name(name)] = torch.empty(len(empty), dtype=torch.float32, device=device)
        else:
            room[name] = torch.empty_like(empty, device=device)
    return room


def _is_int8(model: Any, name: str) -> bool:
    layer, _, part = name.rpartition(".")
    return part == "weight" and type(model.get_submodule(layer)).__name__ == "Linear8bitLt"


def _scales_name(weight: str) -> str:
    return f"{weight.removesuffix('weight')}{_SCALES}"


def _fill_and_keep(
    room: dict[str, Tensor], location: ModelLocation, dtype: torch.dtype, progress: Progress | None, keeping: Keeping
) -> bool:
    form = kept_form(keeping.store, location.name, location.folder, "int8")
    if _holds(kept := form.tensors(), room, room):
        _fill(room, kept, dtype, _Share(progress))
        return True
    share = _Share(progress, file_bytes(room))
    if not _fill_from_checkpoint(room, location.folder, dtype, share):
        return False
    told = form.keep(file_bytes(room), lambda path: write_tensors(path, room, form.metadata, share.add))
    if told:
        keeping.note(told)
    return True


def _fill_from_checkpoint(room: dict[str, Tensor], folder: Path, dtype: torch.dtype, share: _Share) -> bool:
    tensors = [tensor for shard in list_shards(folder) for tensor in _list_tensors(shard)]
    if not _holds(tensors, room, (name for name in room if not name.endswith(_SCALES))):
        return False
    _fill(room, tensors, dtype, share)
    return True


def _list_tensors(shard: Path) -> tuple[TensorPlace, ...]:
    try:
        return read_weight_file(shard).tensors
    except ValueError as error:
        raise ValueError(f"{shard.name}: {error}") from error


def _holds(tensors: Sequence[TensorPlace], room: Mapping[str, Tensor], names: Iterable[str]) -> bool:
    found = {tensor.name: tensor.shape for tensor in tensors if tensor.dtype in DTYPES}
    return len(found) == len(tensors) and found == {name: tuple(room[name].shape) for name in names}


def _fill(room: Mapping[str, Tensor], tensors: Sequence[TensorPlace], dtype: torch.dtype, share: _Share) -> None:
    share.total += sum(tensor.size_bytes for tensor in tensors)
    for tensor, rows, values in read_pieces(tensors, next(iter(room.values())).device):
        place = room[tensor.name]
        if place.dtype == torch.int8 and values.dtype != torch.int8:
            place[rows], room[_scales_name(tensor.name)][rows] = quantise_rows(values.to(dtype))
        else:
            place[rows] = values
        share.add(values.nbytes)


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to 127 steps either side of nought: (steps (n, k) int8, largest magnitude (n,) float32).

    weight: (n, k); w ≈ steps · largest / 127. The same bits on every device, and those of bitsandbytes on a CPU, which
    goes through half precision, too. Source: LLM.int8() (Dettmers et al. 2022), section 2.1, vector-wise.
    """
    half = weight.to(torch.float16)
    largest = half.abs().amax(dim=1).float()
    per_step = (127 / largest).nan_to_num(posinf=0.0)  # a row of noughts
    return (half * per_step.unsqueeze(1)).round().to(torch.int8), largest


def _install(model: Any, room: Mapping[str, Tensor], device: torch.device) -> None:
    for name, tensor in room.items():
        layer, _, part = name.rpartition(".")
        if part != _SCALES:
            setattr(model.get_submodule(layer), part, _parameter(tensor, room.get(_scales_name(name))))
    for name, buffer in list(model.named_buffers()):
        layer, _, part = name.rpartition(".")
        setattr(model.get_submodule(layer), part, buffer.to(device))
    model.tie_weights()


def _parameter(tensor: Tensor, scales: Tensor | None) -> nn.Parameter:
    if scales is None:
        return nn.Parameter(tensor, requires_grad=False)
    from bitsandbytes.nn import Int8Params

    weight: nn.Parameter = Int8Params(tensor, requires_grad=False, has_fp16_weights=False, CB=tensor, SCB=scales)
    return weight


class _Share:
    """Turns bytes done into the share of the work done."""

    def __init__(self, progress: Progress | None, total: int = 0) -> None:
        self._progress = progress
        self._done = 0
        self.total = total

    def add(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(self._done / self.total)
