"""Configs of Mistral Small 3.1 and Ministral 3 as they are released, and what is refused of the class."""

from __future__ import annotations

from typing import Any

import pytest

from pumice.errors import CheckpointError
from pumice.export.config.llava import limit_context, read_config
from pumice.models.config import LlavaConfig, QueryGrowth

TOWER = {
    "attention_dropout": 0.0,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "image_size": 1540,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "model_type": "pixtral",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 24,
    "patch_size": 14,
}
TEXT = {
    "attention_dropout": 0.0,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "sliding_window": None,
    "use_cache": True,
    "vocab_size": 131072,
}
WHOLE = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "image_token_index": 10,
    "model_type": "mistral3",
    "multimodal_projector_bias": False,
    "projector_hidden_act": "gelu",
    "spatial_merge_size": 2,
    "vision_feature_layer": -1,
}
SMALL: dict[str, Any] = WHOLE | {
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "text_config": TEXT
    | {
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "max_position_embeddings": 131072,
        "model_type": "mistral",
        "num_hidden_layers": 40,
        "rope_theta": 1e9,
    },
    "vision_config": TOWER | {"rope_theta": 10000.0},
}
ROTARY = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 16.0,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16384,
    "rope_theta": 1e6,
    "rope_type": "yarn",
    "type": "yarn",
}
MINISTRAL: dict[str, Any] = WHOLE | {
    "dtype": "bfloat16",
    "quantization_config": {
        "activation_scheme": "static",
        "dequantize": False,
        "modules_to_not_convert": ["model.vision_tower", "model.multi_modal_projector", "lm_head"],
        "quant_method": "fp8",
        "weight_block_size": None,
    },
    "text_config": TEXT
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 262144,
        "model_type": "ministral3",
        "num_hidden_layers": 34,
        "rope_parameters": ROTARY,
    },
    "transformers_version": "5.0.0.dev0",
    "vision_config": TOWER | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
}


def check_whole(config: LlavaConfig) -> None:
    assert (config.merge, config.token_side, config.tokens_per_image) == (2, 28, None)
    assert (config.vision.tower, config.vision_feature_layers) == ("pixtral", (24,))
    assert (config.vision_feature_select_strategy, config.multimodal_projector_bias) == ("full", False)
    assert (config.text.head_dim, config.text.num_key_value_heads) == (128, 8)
    assert config.projector_layer_norm_eps is None


def test_mistral_small() -> None:
    config = read_config(SMALL)
    check_whole(config)
    assert config.text.query_growth is None
    assert (config.text.rotary_scale, config.text.inv_freq[1]) == (1.0, pytest.approx(1e9 ** (-2 / 128)))


def test_ministral() -> None:
    config = read_config(MINISTRAL)
    check_whole(config)
    assert config.text.query_growth == QueryGrowth(beta=0.1, every=16384)
    assert (config.text.max_position_embeddings, config.text.rotary_scale) == (262144, 1.0)
    assert limit_context(config, None).text.max_position_embeddings == 131072


def test_sections_that_are_left_out_are_those_of_mistral_small() -> None:
    config = read_config({"model_type": "mistral3"})
    check_whole(config)
    assert (config.text.hidden_size, config.text.num_hidden_layers) == (5120, 40)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spatial_merge_size": 0}, "spatial_merge_size is 0, expected a positive integer"),
        ({"spatial_merge_size": 111}, "spatial_merge_size is 111, expected at most 110"),
        (
            {"vision_feature_layer": [-1, -2]},
            "lists 2 layers, but a mistral3's projector norms the width of one",
        ),
        ({"vision_config": {"model_type": "clip_vision_model"}}, "'clip_vision_model' .* expected pixtral"),
        ({"vision_feature_layer": 30}, "vision_feature_layer 30 is outside"),
    ],
)
def test_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_config(SMALL | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"llama_4_scaling_beta": None},
        {"llama_4_scaling_beta": -0.1},
        {"llama_4_scaling_beta": True},
        {"llama_4_scaling_beta": float("nan")},
        {"original_max_position_embeddings": 16384.5},
    ],
)
def test_growths_that_cannot_be(changes: dict[str, Any]) -> None:
    text = MINISTRAL["text_config"] | {"rope_parameters": ROTARY | changes}
    with pytest.raises(CheckpointError, match="llama_4_scaling_beta"):
        read_config(MINISTRAL | {"text_config": text})
