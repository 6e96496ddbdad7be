"""The dimensions of a Qwen3-VL, as far as time and memory depend on them.

Knows the `config.json` form and the published sizes. Knows nothing of weights on disk, devices or budgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medvl.errors import ModelError

ARCHITECTURE = "Qwen3VLForConditionalGeneration"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """How large each part of a Qwen3-VL is.

    The text model: `layers` of grouped-query attention and a gated MLP, all Linear layers without bias.
    The vision tower: `vision_layers` of plain attention and a two-layer MLP, with biases; a merger turns merge × merge
    patches into one vision token, and one more merger per entry of `deepstack` feeds an early text layer.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    tied: bool  # the output matrix is the embedding matrix
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_mlp: int
    deepstack: tuple[int, ...]  # vision layers whose output reaches the text model directly
    vision_positions: int = 2304  # learned positions, a square grid
    patch_px: int = 16
    merge: int = 2
    temporal: int = 2  # each picture stands for this many equal frames

    @property
    def token_px(self) -> int:
        """Side of the square that becomes one vision token; picture sides must be multiples of it."""
        return self.patch_px * self.merge

    @property
    def patch_values(self) -> int:
        """Numbers in one patch row: three colours, `temporal` frames, patch × patch pixels."""
        return 3 * self.temporal * self.patch_px**2

    @property
    def text_linear_parameters(self) -> int:
        """Weights of the text layers' Linear modules: what int8 and nf4 make smaller."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp)

    @property
    def text_linear_rows(self) -> int:
        """Outputs of the text layers' Linear modules: int8 keeps one scale for each."""
        attention = (self.heads + 2 * self.kv_heads) * self.head_dim + self.hidden
        return self.layers * (attention + 2 * self.mlp + self.hidden)

    @property
    def largest_text_matrix(self) -> int:
        """Weights of the largest product of a text layer, with q, k, v and gate, up stacked."""
        return self.hidden * max(2 * self.mlp, (self.heads + 2 * self.kv_heads) * self.head_dim)

    @property
    def stacked_text_parameters(self) -> int:
        """Weights of the text layers' products that the engine stacks: q, k, v and gate, up."""
        return self.layers * self.hidden * ((self.heads + 2 * self.kv_heads) * self.head_dim + 2 * self.mlp)

    @property
    def text_norm_parameters(self) -> int:
        """Weights of the text model's norms, kept in full precision."""
        return self.layers * (2 * self.hidden + 2 * self.head_dim) + self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Weights of the input embedding and, when it is not tied, the output matrix."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def vision_parameters(self) -> int:
        """Weights of the whole vision tower, never quantised."""
        wide = self.vision_hidden * self.merge**2
        patch = (self.patch_values + 1) * self.vision_hidden + self.vision_positions * self.vision_hidden
        attention = 4 * self.vision_hidden * (self.vision_hidden + 1)
        mlp = 2 * self.vision_hidden * self.vision_mlp + self.vision_mlp + self.vision_hidden
        block = attention + mlp + 4 * self.vision_hidden
        merger = wide * (wide + 1) + (wide + 1) * self.hidden
        norms = 2 * self.vision_hidden + len(self.deepstack) * 2 * wide
        return patch + self.vision_layers * block + (1 + len(self.deepstack)) * merger + norms

    @property
    def vision_operations_per_token(self) -> int:
        """Operations that make one vision token: the blocks run on merge² patches, the mergers on the token."""
        wide = self.vision_hidden * self.merge**2
        block = 4 * self.vision_hidden**2 + 2 * self.vision_hidden * self.vision_mlp
        mergers = (1 + len(self.deepstack)) * wide * (wide + self.hidden)
        return 2 * (self.merge**2 * self.vision_layers * block + mergers)

    @property
    def parameters(self) -> int:
        """Weights of the whole model."""
        text = self.text_linear_parameters + self.text_norm_parameters
        return text + self.embedding_parameters + self.vision_parameters

    def picture_tokens(self, size_px: int) -> int:
        """Count the vision tokens of one square picture, without its start and end marks."""
        return (size_px // self.token_px) ** 2

    def cache_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Return what one token costs in the key/value cache."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """Read the dimensions from the content of a `config.json`.

    Raises ModelError if it describes another architecture or lacks a dimension.
    """
    architectures = config.get("architectures") or [config.get("model_type", "none")]
    if ARCHITECTURE not in architectures:
        raise ModelError(
            f"The checkpoint holds {', '.join(map(str, architectures))}",
            expected=f"medvl reads with {ARCHITECTURE}",
            todo="Choose a Qwen3-VL checkpoint with --model, e.g. Qwen/Qwen3-VL-8B-Instruct",
        )
    try:
        return _shape(config["text_config"], config["vision_config"], bool(config.get("tie_word_embeddings", False)))
    except KeyError as error:
        raise ModelError(f"The checkpoint's config.json lacks {error.args[0]}") from None


def _shape(text: Mapping[str, Any], vision: Mapping[str, Any], tied: bool) -> ModelShape:
    return ModelShape(
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_dim=text["head_dim"],
        mlp=text["intermediate_size"],
        vocab=text["vocab_size"],
        tied=tied,
        vision_hidden=vision["hidden_size"],
        vision_layers=vision["depth"],
        vision_heads=vision["num_heads"],
        vision_mlp=vision["intermediate_size"],
        deepstack=tuple(vision["deepstack_visual_indexes"]),
        vision_positions=vision["num_position_embeddings"],
        patch_px=vision["patch_size"],
        merge=vision["spatial_merge_size"],
        temporal=vision["temporal_patch_size"],
    )


def _published(hidden: int, layers: int, heads: int, mlp: int, *, large_vision: bool, tied: bool) -> ModelShape:
    """One of the published sizes: they share head size, vocabulary and two vision towers."""
    tower = (1152, 27, 16, 4304, (8, 16, 24)) if large_vision else (1024, 24, 16, 4096, (5, 11, 17))
    return ModelShape(hidden, layers, heads, 8, 128, mlp, 151936, tied, *tower)


# The vision tower and text dimensions of the four dense Instruct checkpoints, from their config.json.
PUBLISHED_SHAPES: Mapping[str, ModelShape] = {
    "Qwen/Qwen3-VL-2B-Instruct": _published(2048, 28, 16, 6144, large_vision=False, tied=True),
    "Qwen/Qwen3-VL-4B-Instruct": _published(2560, 36, 32, 9728, large_vision=False, tied=True),
    "Qwen/Qwen3-VL-8B-Instruct": _published(4096, 36, 32, 12288, large_vision=True, tied=False),
    "Qwen/Qwen3-VL-32B-Instruct": _published(5120, 64, 64, 25600, large_vision=True, tied=False),
}
