from __future__ import annotations

import pytest

from medvl.errors import ModelError
from medvl.planning.shape import PUBLISHED_SHAPES, shape_from_config

EIGHT = PUBLISHED_SHAPES["Qwen/Qwen3-VL-8B-Instruct"]
CONFIG = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "tie_word_embeddings": False,
    "text_config": {
        "hidden_size": 4096,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 12288,
        "vocab_size": 151936,
    },
    "vision_config": {
        "hidden_size": 1152,
        "depth": 27,
        "num_heads": 16,
        "intermediate_size": 4304,
        "deepstack_visual_indexes": [8, 16, 24],
        "num_position_embeddings": 2304,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}


def test_the_published_8b_has_its_8_77_billion_weights() -> None:
    # 36 layers × (2 × 4096 × 128 × 40 + 3 × 4096 × 12288) = 6.945 G, twice 151936 × 4096 = 1.245 G, vision 0.576 G
    assert EIGHT.text_linear_parameters == 6_945_767_424
    assert EIGHT.embedding_parameters == 1_244_659_712
    assert EIGHT.vision_parameters == 576_388_336
    assert EIGHT.parameters == 8_767_123_696


@pytest.mark.parametrize(("name", "billions"), [("2B", 2.13), ("4B", 4.44), ("32B", 33.36)])
def test_the_other_published_sizes_weigh_what_their_names_say(name: str, billions: float) -> None:
    shape = PUBLISHED_SHAPES[f"Qwen/Qwen3-VL-{name}-Instruct"]
    assert shape.parameters / 1e9 == pytest.approx(billions, abs=0.005)


def test_a_512_picture_takes_256_tokens_and_each_144_kib_of_cache() -> None:
    assert EIGHT.picture_tokens(512) == 256
    assert EIGHT.picture_tokens(448) == 196
    assert EIGHT.cache_bytes_per_token() == 144 * 1024
    assert EIGHT.cache_bytes_per_token(bytes_per_value=4) == 288 * 1024


def test_the_shape_is_read_from_a_configuration() -> None:
    assert shape_from_config(CONFIG) == EIGHT


def test_another_architecture_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="holds Qwen2_5_VLForConditionalGeneration"):
        shape_from_config(CONFIG | {"architectures": ["Qwen2_5_VLForConditionalGeneration"]})


def test_a_configuration_without_architectures_is_named_by_its_type() -> None:
    with pytest.raises(ModelError, match="holds bert"):
        shape_from_config({"model_type": "bert"})


def test_a_dimension_that_is_not_there_is_named() -> None:
    text = {key: value for key, value in CONFIG["text_config"].items() if key != "head_dim"}  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="lacks head_dim"):
        shape_from_config(CONFIG | {"text_config": text})
