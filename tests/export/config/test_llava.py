"""`config.json` → `LlavaConfig`: older and newer spellings, and what is refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from pumice.errors import CheckpointError
from pumice.export.config.llava import read_config
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
    assert (len(config.text.inv_freq), config.text.num_key_value_heads) == (64, 32)
    assert config.text.sliding_windows == (None,) * 32
    assert (config.vision_feature_layers, config.tokens_per_image) == ((23,), 576)
    assert config.vision.hidden_act == "quick_gelu"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(-1, (3,)), (-2, (2,)), (-4, (0,)), (3, (3,)), (1, (1,)), ([-2, 0, 1], (2, 0, 1)), ([3], (3,))],
    ids=str,
)
def test_feature_layers(raw: dict[str, Any], layer: int | list[int], expected: tuple[int, ...]) -> None:
    config = read_config(changed(raw, "vision_feature_layer", layer))
    assert (config.vision_feature_layers, config.vision_layers) == (expected, max(expected))


def test_rope_theta_in_both_places(raw: dict[str, Any]) -> None:
    old = copy.deepcopy(raw)
    old["text_config"].pop("rope_parameters", None)
    new = copy.deepcopy(old)
    old["text_config"]["rope_theta"] = 12345.0
    new["text_config"].pop("rope_theta", None)
    new["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 12345.0}
    frequencies = read_config(old).text.inv_freq
    assert frequencies == read_config(new).text.inv_freq
    assert frequencies[1] == pytest.approx(12345.0 ** (-1 / len(frequencies)))


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
    ids=lambda scaling: scaling.get("rope_type", scaling.get("type")),
)
def test_scaled_rotary_embedding_is_transformers(raw: dict[str, Any], scaling: dict[str, Any]) -> None:
    """In both places, and the same as in the module that transformers runs."""
    old = changed(raw, "text_config.rope_scaling", scaling)
    new = changed(raw, "text_config.rope_parameters", scaling | {"rope_theta": 10000.0})
    new["text_config"].pop("rope_theta")
    theirs = LlamaRotaryEmbedding(LlavaConfig.from_dict(copy.deepcopy(old)).text_config)
    for config in (read_config(old).text, read_config(new).text):
        torch.testing.assert_close(torch.tensor(config.inv_freq), theirs.inv_freq, rtol=0, atol=0)
        assert config.rotary_scale == theirs.attention_scaling


def test_sliding_windows(raw: dict[str, Any]) -> None:
    mistral = changed(raw, "text_config.model_type", "mistral")
    for key in ("attention_bias", "mlp_bias"):
        del mistral["text_config"][key]
    layers, context = mistral["text_config"]["num_hidden_layers"], 512
    assert (
        read_config(changed(mistral, "text_config.sliding_window", 7)).text.sliding_windows == (7,) * layers
    )
    assert (
        read_config(mistral).text.sliding_windows == (None,) * layers
    )  # 4096 by default, beyond the context
    assert (
        read_config(changed(mistral, "text_config.sliding_window", context)).text.sliding_windows[0] is None
    )

    qwen = mistral | {"text_config": mistral["text_config"] | {"model_type": "qwen2", "sliding_window": 7}}
    assert read_config(qwen).text.sliding_windows == (None,) * layers  # use_sliding_window is off
    qwen["text_config"] |= {"use_sliding_window": True, "max_window_layers": 1}
    assert read_config(qwen).text.sliding_windows == (None, *(7,) * (layers - 1))
    assert read_config(qwen).text.qkv_bias
    assert not read_config(qwen).text.o_bias


def test_llava_onevision_leaves_most_to_defaults() -> None:
    """Those of its own class: another tower and another text model than LLaVA's."""
    config = read_config(
        {"model_type": "llava_onevision", "vision_config": {"image_size": 384}, "text_config": {}}
    )
    assert (config.vision.tower, config.vision_feature_select_strategy) == ("siglip", "full")
    whole = read_config(
        {"model_type": "llava_onevision", "architectures": ["LlavaNextForConditionalGeneration"]}
    )
    assert (whole.vision.image_size, whole.vision.patch_size, whole.vision.num_hidden_layers) == (384, 14, 26)
    assert whole.vision_feature_layers == (26,)
    assert (len(whole.image_grid_pinpoints or ()), whole.anyres_max, whole.tokens_per_image) == (36, 9, 729)
    assert whole.text.qkv_bias


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_aspect_ratio": "anyres"}, "vision_aspect_ratio is 'anyres', expected anyres_max_9"),
        ({"vision_aspect_ratio": "anyres_max_0"}, "'anyres_max_0', expected"),
        ({"vision_aspect_ratio": "anyres_max_9_a"}, "'anyres_max_9_a', expected"),
        ({"vision_aspect_ratio": "pad"}, "'pad', expected"),
        ({"vision_aspect_ratio": 9}, "."),
        ({"vision_feature_select_strategy": "default"}, "expected 'full' in a llava_onevision"),
        (
            {"vision_config": {"model_type": "clip_vision_model", "image_size": 384}},
            "'full' keeps the class token .* expected 'default'",
        ),
        ({"image_grid_pinpoints": [[384, 400]]}, "multiples of the tower's 384 pixels"),
    ],
)
def test_refused_of_a_llava_onevision(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_config({"model_type": "llava_onevision", **changes})


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            "vision_config.model_type",
            "dinov2",
            "vision model of type 'dinov2'.*supported: clip_vision_model, siglip",
        ),
        (
            "text_config.model_type",
            "gemma3_text",
            "text model of type 'gemma3_text'.*supported: llama, mistral, ministral, ministral3, granite, qwen2, qwen3",
        ),
        ("model_type", "aya_vision", "whole model of type 'aya_vision'"),
        ("text_config.model_type", ["llama"], r"text model of type \['llama'\]"),
        ("text_config.hidden_act", "prelu", "hidden_act is 'prelu'; supported: silu"),
        ("vision_config.hidden_act", "tanhshrink", "vision_config.hidden_act is 'tanhshrink'"),
        ("projector_hidden_act", "elu", "projector_hidden_act is 'elu'"),
        (
            "text_config.rope_scaling",
            {"rope_type": "proportional", "factor": 2.0},
            "rope_type 'proportional'",
        ),
        ("text_config.rope_scaling", {"type": "linear", "factor": "2"}, "factor '2', expected a number"),
        ("text_config.rope_scaling", {"type": "linear", "factor": 0.0}, "not finite"),
        ("text_config.rope_scaling", {"type": "linear"}, "factor"),
        ("text_config.partial_rotary_factor", 0.5, "partial_rotary_factor"),
        ("text_config.sliding_window", 128, "text_config.sliding_window, which this pumice does not know"),
        ("vision_config.use_magic", True, "vision_config.use_magic"),
        ("patch_merge_type", "spatial", "patch_merge_type"),
        ("vision_feature_layer", [-2, -5], "vision_feature_layer -5 is outside"),
        ("vision_feature_layer", [], "expected a layer or a list"),
        ("vision_feature_layer", "last", "."),
        ("vision_feature_layer", 9, "outside the tower's -4 … 3"),
        ("vision_feature_select_strategy", "cls", "."),
        ("image_token_index", 10**6, "outside the embedding table"),
        ("text_config.num_key_value_heads", 3, "not divisible"),
        ("text_config.num_hidden_layers", 0, "num_hidden_layers is 0"),
        ("text_config.hidden_size", "large", "."),
        ("vision_config.image_size", 7, "smaller than one patch"),
        ("vision_config.num_channels", 1, r"only 3 \(RGB\)"),
        ("vision_config", [], "vision_config is list"),
        ("text_config.head_dim", 7, "even"),
    ],
)
def test_refused(raw: dict[str, Any], path: str, value: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        read_config(changed(raw, path, value))
    assert "\n" not in str(caught.value)
