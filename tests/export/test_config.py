"""`config.json` → `LlavaConfig`: older and newer spellings, and what is refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pumice.errors import CheckpointError
from pumice.export.config import read_config
from tests.factory import make_checkpoint


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = make_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def changed(raw: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(raw)
    *parents, key = path.split(".")
    section = result
    for parent in parents:
        section = section[parent]
    section[key] = value
    return result


def test_released_llava_1_5_leaves_most_to_defaults() -> None:
    """The shape of the config.json of llava-1.5-7b-hf."""
    config = read_config(
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "ignore_index": -100,
            "image_token_index": 32000,
            "pad_token_id": 32001,
            "projector_hidden_act": "gelu",
            "text_config": {
                "_name_or_path": "lmsys/vicuna-7b-v1.5",
                "architectures": ["LlamaForCausalLM"],
                "max_position_embeddings": 4096,
                "model_type": "llama",
                "rms_norm_eps": 1e-05,
                "torch_dtype": "float16",
                "vocab_size": 32064,
            },
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "vision_config": {
                "hidden_size": 1024,
                "image_size": 336,
                "intermediate_size": 4096,
                "model_type": "clip_vision_model",
                "num_attention_heads": 16,
                "num_hidden_layers": 24,
                "patch_size": 14,
                "projection_dim": 768,
                "vocab_size": 32000,
            },
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
        }
    )
    assert (config.text.hidden_size, config.text.num_hidden_layers, config.text.head_dim) == (4096, 32, 128)
    assert (config.text.rope_theta, config.text.num_key_value_heads) == (10000.0, 32)
    assert (config.vision_feature_layer, config.tokens_per_image) == (23, 576)
    assert config.vision.hidden_act == "quick_gelu"


@pytest.mark.parametrize(("layer", "expected"), [(-1, 3), (-2, 2), (-4, 0), (3, 3), (1, 1)], ids=str)
def test_feature_layers(raw: dict[str, Any], layer: int, expected: int) -> None:
    assert read_config(changed(raw, "vision_feature_layer", layer)).vision_feature_layer == expected


def test_rope_theta_in_both_places(raw: dict[str, Any]) -> None:
    old = copy.deepcopy(raw)
    old["text_config"].pop("rope_parameters", None)
    new = copy.deepcopy(old)
    old["text_config"]["rope_theta"] = 12345.0
    new["text_config"].pop("rope_theta", None)
    new["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 12345.0}
    assert read_config(old).text.rope_theta == read_config(new).text.rope_theta == 12345.0


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("vision_config.model_type", "siglip_vision_model", "vision model of type 'siglip_vision_model'"),
        ("text_config.model_type", "qwen2", "text model of type 'qwen2'.*supported: llama"),
        ("text_config.model_type", ["llama"], r"text model of type \['llama'\]"),
        ("text_config.hidden_act", "mish", "hidden_act is 'mish'; supported: silu"),
        ("vision_config.hidden_act", "tanhshrink", "vision_config.hidden_act is 'tanhshrink'"),
        ("projector_hidden_act", "elu", "projector_hidden_act is 'elu'"),
        ("text_config.rope_scaling", {"type": "linear", "factor": 2.0}, "rope_type 'linear'"),
        ("text_config.sliding_window", 128, "text_config.sliding_window, which this pumice does not know"),
        ("vision_config.use_magic", True, "vision_config.use_magic"),
        ("mm_patch_merge_type", "spatial", "mm_patch_merge_type"),
        ("vision_feature_layer", [-2, -5], "only a single layer"),
        ("vision_feature_layer", 9, "outside the tower's -4 … 3"),
        ("vision_feature_select_strategy", "cls", "."),
        ("image_token_index", 10**6, "outside the embedding table"),
        ("text_config.num_key_value_heads", 3, "not divisible"),
        ("text_config.num_hidden_layers", 0, "num_hidden_layers is 0"),
        ("text_config.hidden_size", "large", "."),
        ("vision_config.image_size", 7, "smaller than one patch"),
        ("vision_config.num_channels", 1, r"only 3 \(RGB\)"),
        ("vision_config", [], "vision_config is list"),
        ("text_config.head_dim", 7, "even rotary dimension"),
    ],
)
def test_refused(raw: dict[str, Any], path: str, value: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        read_config(changed(raw, path, value))
    assert "\n" not in str(caught.value)
