"""How many bytes a reading takes, part by part. Arithmetic on dimensions; no torch, no files.

The constants reproduce peaks measured with stock transformers on one H100, 8B shape, 30 chunks of ten 512² pictures:
bf16 40.6, int8 37.8 and nf4 30.6 GiB. The formula stays above each of them, by 7 to 11 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from medvl.planning.shape import ModelShape
from medvl.settings import Precision

GIB = 2**30

# Bytes of one weight of a text Linear layer with its scale: one scale a row for int8, a float32 per 64 values of nf4.
_LINEAR_BYTES = {"int8": 1.001, "nf4": 0.5 + 4 / 64, "bf16": 2.0, "fp32": 4.0}
_WORKSPACE_BYTES = int(0.5 * GIB)  # CUDA context, cuBLAS workspaces, fragmentation at the small end
_CPU_WORKSPACE_BYTES = int(0.6 * GIB)  # interpreter, torch and transformers themselves
_INT8_ACTIVATIONS = 1.25  # LLM.int8() keeps a quantised copy of each layer's input and its outlier columns
_MAX_TEXT_ACTIVATIONS = (6, 4)  # hidden-wide and MLP-wide tensors alive at once in a text layer
_MAX_VISION_ACTIVATIONS = (8, 2)


@dataclass(frozen=True, slots=True)
class Memory:
    """Where the bytes of one model call go."""

    weights_bytes: int
    cache_bytes: int  # keys and values
    activation_bytes: int  # the larger of vision and prefill
    logits_bytes: int
    workspace_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most that is held at one moment."""
        return self.weights_bytes + self.cache_bytes + self.activation_bytes + self.logits_bytes + self.workspace_bytes


@dataclass(frozen=True, slots=True)
class Load:
    """How much one model call is given."""

    rows: int  # chunks read together
    pictures: int  # per chunk
    prompt_tokens: int  # per chunk, pictures included
    new_tokens: int  # at most, per chunk
    size_px: int


def predict_memory(shape: ModelShape, precision: Precision, load: Load, *, cuda: bool) -> Memory:
    """Predict the memory of one call of the stock model."""
    value_bytes = _value_bytes(precision, cuda=cuda)
    tokens = load.rows * load.prompt_tokens
    patches = load.rows * load.pictures * (load.size_px // shape.patch_px) ** 2
    mask_bytes = load.rows * load.prompt_tokens**2 * value_bytes
    prefill = tokens * _text_activation_values(shape) * value_bytes + mask_bytes
    vision = patches * _vision_activation_values(shape) * value_bytes
    return Memory(
        weights_bytes=weights_bytes(shape, precision, cuda=cuda),
        cache_bytes=shape.cache_bytes_per_token(value_bytes) * load.rows * (load.prompt_tokens + load.new_tokens),
        activation_bytes=int(max(prefill, vision) * (_INT8_ACTIVATIONS if precision == "int8" else 1)),
        logits_bytes=load.rows * shape.vocab * 4 * 3,  # float32 logits, masked copy, softmax
        workspace_bytes=_WORKSPACE_BYTES if cuda else _CPU_WORKSPACE_BYTES,
    )


def weights_bytes(shape: ModelShape, precision: Precision, *, cuda: bool) -> int:
    """Return the bytes of the weights once loaded: only the text model's Linear layers are quantised."""
    full = shape.parameters - shape.text_linear_parameters
    linear = shape.text_linear_parameters * _LINEAR_BYTES[precision]
    return int(linear + full * _value_bytes(precision, cuda=cuda))


def _value_bytes(precision: Precision, *, cuda: bool) -> int:
    """Bytes of everything that is not quantised. Many CPUs emulate bf16, so the reader uses float32 there."""
    return 2 if precision == "bf16" or (cuda and precision != "fp32") else 4


def _text_activation_values(shape: ModelShape) -> int:
    hidden_wide, mlp_wide = _MAX_TEXT_ACTIVATIONS
    deepstack = len(shape.deepstack) * shape.hidden
    return hidden_wide * shape.hidden + mlp_wide * shape.mlp + deepstack


def _vision_activation_values(shape: ModelShape) -> int:
    hidden_wide, mlp_wide = _MAX_VISION_ACTIVATIONS
    pixels = 2 * shape.patch_values  # the rows themselves, in float32
    return hidden_wide * shape.vision_hidden + mlp_wide * shape.vision_mlp + pixels
