"""Keys that change nothing: taken at any value, or at theirs, and transformers' logits are the same with them.

Those that may change something are refused, all in one message with places and values.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2Config,
    SiglipVisionConfig,
    VipLlavaConfig,
)

from pumice.errors import CheckpointError
from pumice.export.config.harmless import ALWAYS, AT_VALUES, PREFIXES, is_harmless
from pumice.export.config.llava import read_config

PLACES = ("", "text_config", "vision_config")
TRAINER = {
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_hidden_size": 1152,
    "mm_projector_type": "mlp2x_gelu",
    "mm_projector_lr": 1e-5,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "cls_patch",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_use_im_start_end": True,
    "mm_use_im_patch_token": False,
    "mm_resampler_type": "spatial_pool",
    "mm_vision_tower_lr": 2e-6,
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": [[336, 672], [672, 336]],
    "image_crop_resolution": 224,
    "image_split_resolution": 224,
    "tokenizer_padding_side": "right",
    "tokenizer_model_max_length": 8192,
    "tokenizer_vocab_size": 128,
    "use_mm_proj": True,
    "tune_mm_mlp_adapter": False,
    "tune_mm_vision_resampler": True,
    "freeze_mm_mlp_adapter": True,
    "freeze_mm_vision_resampler": False,
    "unfreeze_mm_vision_tower": True,
    "vision_tower_pretrained": "",
    "neftune_noise_alpha": 5.0,
    "max_sequence_length": 7,
    "_flash_attn_2_enabled": True,
    "rope_interleaved": False,
    "use_sliding_window": False,
    "use_image_newline_parameter": True,
    "processor_class": "LlavaProcessor",
    "video_token_index": 3,
    "transformers.js_config": {"dtype": "q4"},
}
TESTER = {
    "text_config": {
        "seq_length": 7,
        "is_training": True,
        "use_input_mask": True,
        "use_token_type_ids": False,
        "use_labels": True,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "type_vocab_size": 16,
        "type_sequence_label_size": 2,
        "initializer_range": 0.02,
        "num_labels": 3,
        "num_choices": 4,
        "pad_token_id": 1,
        "scope": None,
    },
    "vision_config": {
        "batch_size": 12,
        "is_training": True,
        "projection_dim": 32,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "initializer_range": 0.02,
        "initializer_factor": 0.5,
        "scope": "somewhere",
    },
}
"""What transformers' own test models of LLaVA, CLIP, SigLIP and Pixtral are made with, beside sizes."""


def small() -> dict[str, Any]:
    return {
        "model_type": "llava",
        "image_token_index": 5,
        "image_seq_length": 16,
        "vision_feature_layer": -1,
        "text_config": {
            "model_type": "llama",
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 37,
            "max_position_embeddings": 512,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": 8,
            "patch_size": 2,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 37,
        },
    }


def put(raw: dict[str, Any], place: str, values: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(raw)
    (changed[place] if place else changed).update(copy.deepcopy(values))
    return changed


def logits(raw: dict[str, Any]) -> torch.Tensor:
    """Of transformers' model of this config, from the same random weights, over an image and some words."""
    torch.manual_seed(0)
    config = LlavaConfig.from_dict(copy.deepcopy(raw))
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # not as the config's initializer_range would have them
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        pixels = torch.randn(1, 3, 8, 8, generator=generator)
        ids = torch.tensor([[1, *[5] * 16, 7, 8, 9]])
        prefill: torch.Tensor = model(input_ids=ids, pixel_values=pixels).logits[0]
        steps = model.generate(
            input_ids=ids,
            pixel_values=pixels,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=3,
            max_new_tokens=3,
            pad_token_id=0,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        ).logits
    return torch.cat([prefill, *steps])


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return logits(small())


ODD: dict[str, Any] = {
    "_attn_implementation": "eager",
    "_attn_implementation_internal": "eager",
    "_experts_implementation": "eager",
    "_experts_implementation_internal": "eager",
    "attn_implementation": "eager",
    "experts_implementation": "eager",
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "label2id": {"a": 0, "b": 1, "c": 2},
    "problem_type": "regression",
    "torch_dtype": "bfloat16",
    "num_labels": 3,
    "is_encoder_decoder": True,
    "pruned_heads": {"0": [1]},
    "max_window_layers": 1,
    "initializer_factor": 0.5,
    "initializer_range": 0.5,
    "use_cache": True,
    "pretraining_tp": 2,
    "vision_use_head": False,
    "attention_dropout": 0.5,
}
"""Values of a type that transformers takes, for keys that it checks."""
READ = {"eos_token_id", "bos_token_id", "pad_token_id", "vocab_size", "torch_dtype", "is_encoder_decoder"}
"""Keys that the supported config classes have, which `read_config` knows anyway."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", [key for keys in ALWAYS.values() for key in keys])
def test_keys_without_effect_are_taken(key: str, place: str) -> None:
    for value in (ODD.get(key, 3), ODD.get(key, "text"), ODD.get(key, [1, {"a": None}])):
        assert is_harmless(key, value, {})
    if key not in READ:
        read_config(put(small(), place, {key: ODD.get(key, 3)}))


@pytest.mark.parametrize("place", PLACES)
def test_keys_without_effect_have_none_in_transformers(place: str, plain: torch.Tensor) -> None:
    """All at once; what the classes read themselves has tests of its own."""
    values = {key: ODD.get(key, 3) for keys in ALWAYS.values() for key in keys if key not in READ}
    with_all = logits(put(small(), place, values | {f"{prefix}something": "odd" for prefix in PREFIXES}))
    torch.testing.assert_close(with_all, plain, rtol=0, atol=0)


@pytest.mark.parametrize("place", PLACES)
def test_what_trainers_and_converters_leave(place: str, plain: torch.Tensor) -> None:
    raw = put(small(), place, TRAINER)
    assert read_config(raw) == read_config(small())
    torch.testing.assert_close(logits(raw), plain, rtol=0, atol=0)


@pytest.mark.parametrize("vision", ["clip_vision_model", "siglip_vision_model", "pixtral"])
@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2"])
def test_test_models_of_transformers(text: str, vision: str) -> None:
    raw = put(small(), "text_config", TESTER["text_config"] | {"model_type": text})
    raw = put(raw, "vision_config", TESTER["vision_config"] | {"model_type": vision, "hidden_act": "gelu"})
    raw["vision_feature_select_strategy"] = "full"
    config = read_config(raw)
    assert (config.text.hidden_act, config.vision.image_size, config.text.vocab_size) == ("gelu", 8, 99)


@pytest.mark.parametrize("key", AT_VALUES)
@pytest.mark.parametrize("place", PLACES)
def test_keys_that_are_taken_at_a_value(key: str, place: str, plain: torch.Tensor) -> None:
    own = key in LlamaConfig().to_dict() and place == "text_config"  # then it is read, and so may be anything
    for value in AT_VALUES[key]:
        raw = put(small(), place, {key: value})
        assert read_config(raw) == read_config(small())
        torch.testing.assert_close(logits(raw), plain, rtol=0, atol=0)
        other = (not value) if isinstance(value, bool) else value + 1
        if not own:
            with pytest.raises(CheckpointError, match=key):
                read_config(put(small(), place, {key: other}))


@pytest.mark.parametrize(
    ("place", "values", "taken"),
    [
        ("text_config", {"sliding_window": 512}, True),
        ("text_config", {"sliding_window": 4096}, True),
        ("text_config", {"sliding_window": 511}, False),
        ("text_config", {"sliding_window": "512"}, False),
        ("text_config", {"sliding_window": None}, True),
        ("text_config", {"layer_types": ["full_attention"] * 2}, True),
        ("text_config", {"layer_types": ["full_attention"] * 3}, False),
        ("text_config", {"layer_types": ["full_attention", "sliding_attention"]}, False),
        ("text_config", {"layer_types": "full_attention"}, False),
        ("text_config", {"model_type": "mistral", "layer_types": ["full_attention"] * 2}, False),
        (
            "text_config",
            {"model_type": "mistral", "sliding_window": None, "layer_types": ["full_attention"] * 2},
            True,
        ),
        ("vision_config", {"head_dim": 8}, True),
        ("vision_config", {"head_dim": 16}, False),
        ("", {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 37}, True),
        ("", {"hidden_size": 4096}, True),
        ("", {"num_attention_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}, True),
        ("", {"hidden_act": "silu", "image_size": 8}, True),
        ("", {"num_attention_heads": 8}, False),
        ("", {"rope_theta": 500000.0}, False),
        ("", {"rms_norm_eps": 1e-5}, False),
        ("", {"image_size": 336}, False),
        ("", {"rope_scaling": {"type": "linear", "factor": 2.0}}, False),
        ("text_config", {"num_experts": 8}, False),
        ("text_config", {"per_layer_config": {"0": {"hidden_act": "gelu"}}}, False),
        ("text_config", {"final_logit_softcapping": 30.0}, False),
        ("text_config", {"final_logit_softcapping": None}, True),
        ("text_config", {"attention_multiplier": 0.5}, False),
        ("vision_config", {"tie_last_hidden_states": True}, False),
        ("vision_config", {"mm": 1}, False),
    ],
    ids=str,
)
def test_what_the_rest_of_a_config_says(place: str, values: dict[str, Any], taken: bool) -> None:
    raw = put(small(), place, values)
    if taken:
        read_config(raw)
        return
    key = [key for key in values if key != "model_type"][-1]
    with pytest.raises(CheckpointError, match=f"for {place + '.' if place else ''}{key}, which this pumice"):
        read_config(raw)


def test_llama_with_a_window_beyond_its_context_is_the_same_in_transformers(plain: torch.Tensor) -> None:
    for values in ({"sliding_window": 512}, {"layer_types": ["full_attention"] * 2}):
        torch.testing.assert_close(logits(put(small(), "text_config", values)), plain, rtol=0, atol=0)


def test_all_unknown_keys_are_in_one_message() -> None:
    raw = put(small(), "text_config", {"num_experts": 8, "router": {"kind": "top\nk"}, "is_training": True})
    raw = put(raw, "vision_config", {"register_tokens": 4, "use_magic": True})
    raw = put(raw, "", {"merge": "spätial", "two\nlines": 1.5})
    with pytest.raises(CheckpointError) as caught:
        read_config(raw)
    message = str(caught.value)
    for said in (
        '"sp\\u00e4tial" for merge',
        "1.5 for two lines",
        "8 for text_config.num_experts",
        '{"kind": "top\\nk"} for text_config.router',
        "4 for vision_config.register_tokens",
        "true for vision_config.use_magic",
    ):
        assert said in message
    assert "is_training" not in message
    assert message.isprintable()


def test_many_unknown_keys_are_counted() -> None:
    values = {f"key_{number:03}": "x" * 10_000 for number in range(500)}
    with pytest.raises(CheckpointError, match=r"for text_config.key_000, .* and \d+ more, which") as caught:
        read_config(put(small(), "text_config", values))
    assert len(str(caught.value)) < 1500


def test_no_supported_class_has_a_field_of_those_prefixes() -> None:
    classes = (
        LlavaConfig,
        VipLlavaConfig,
        LlamaConfig,
        MistralConfig,
        Qwen2Config,
        CLIPVisionConfig,
        SiglipVisionConfig,
        PixtralVisionConfig,
    )
    fields = {field for kind in classes for field in kind().to_dict()}
    assert not [field for field in fields if field.startswith(PREFIXES)]


TEXTS = {
    "llama": (LlamaConfig, {"attention_bias": st.booleans(), "mlp_bias": st.booleans(), "pretraining_tp": st.just(2)}),
    "mistral": (MistralConfig, {"sliding_window": st.sampled_from([None, 3, 4096])}),
    "qwen2": (
        Qwen2Config,
        {"use_sliding_window": st.booleans(), "sliding_window": st.just(5), "max_window_layers": st.integers(0, 2)},
    ),
}  # fmt: skip
VISIONS = {
    "clip": (CLIPVisionConfig, {"projection_dim": st.just(16), "initializer_factor": st.just(0.5)}),
    "siglip": (SiglipVisionConfig, {"vision_use_head": st.booleans()}),
    "pixtral": (PixtralVisionConfig, {"rope_parameters": st.just({"rope_theta": 5e3, "rope_type": "default"})}),
}  # fmt: skip
BASE = {
    "output_hidden_states": st.booleans(),
    "return_dict": st.booleans(),
    "dtype": st.sampled_from(["float32", "float16", "bfloat16"]),
    "num_labels": st.integers(2, 5),
    "attention_dropout": st.just(0.1),
    "architectures": st.just(["SomethingForCausalLM"]),
    "name_or_path": st.just("org/name"),
}
TEXT = {
    "rope_parameters": st.sampled_from(
        [
            {"rope_type": "default", "rope_theta": 5e5},
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 64},
        ]
    ),
    "tie_word_embeddings": st.booleans(),
    "initializer_range": st.just(0.1),
    "use_cache": st.booleans(),
    "pad_token_id": st.sampled_from([None, 0, -1]),
    "eos_token_id": st.sampled_from([None, 2, [2, 3]]),
    "bos_token_id": st.sampled_from([None, 1]),
    "rms_norm_eps": st.just(1e-5),
    "num_key_value_heads": st.just(2),
    "max_position_embeddings": st.just(128),
}
WHOLE = {
    "image_seq_length": st.integers(1, 600),
    "tie_word_embeddings": st.booleans(),
    "projector_hidden_act": st.just("gelu"),
    "image_token_id": st.integers(0, 90),
}


def some(options: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=options)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_whatever_transformers_saves_is_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any supported classes with any of their optional fields, as `save_pretrained` writes them."""
    text_kind, text_own = TEXTS[data.draw(st.sampled_from(sorted(TEXTS)))]
    vision_kind, vision_own = VISIONS[data.draw(st.sampled_from(sorted(VISIONS)))]
    pixtral = vision_kind is PixtralVisionConfig
    vip = not pixtral and data.draw(st.booleans())
    parts = small()
    sizes = {name: {k: v for k, v in parts[name].items() if k != "model_type"} for name in PLACES[1:]}
    text = text_kind(**sizes["text_config"] | data.draw(some(BASE | TEXT | text_own)))
    vision = vision_kind(**sizes["vision_config"] | data.draw(some(BASE | vision_own)))
    if vip:
        whole = VipLlavaConfig(vision_config=vision, text_config=text, vision_feature_layers=[-1, 0],
                               **data.draw(some(BASE | WHOLE)) | {"image_token_id": 5})  # fmt: skip
    else:
        whole = LlavaConfig(vision_config=vision, text_config=text,
                            vision_feature_select_strategy="full",
                            **{"image_token_id": 5} | data.draw(some(BASE | WHOLE)))  # fmt: skip
    folder: Path = tmp_path_factory.mktemp("saved")
    try:
        whole.save_pretrained(folder)
    except ValueError:
        return  # transformers' own checks
    raw = json.loads((folder / "config.json").read_text())
    read = read_config(raw)
    assert read.text.hidden_size == 32
    for old in spelt_otherwise(raw):
        assert read_config(old) == read


def spelt_otherwise(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """By the names of transformers 4, and with `rope_theta` in both places."""
    old = copy.deepcopy(raw)
    for part in (old, old["text_config"], old["vision_config"]):
        if "dtype" in part:
            part["torch_dtype"] = part.pop("dtype")
    rotary = old["text_config"].pop("rope_parameters", None)
    if rotary:
        old["text_config"]["rope_theta"] = rotary.pop("rope_theta")
        kind = rotary.pop("rope_type")
        old["text_config"]["rope_scaling"] = None if kind == "default" else {"type": kind, **rotary}
    both = copy.deepcopy(raw)
    both["text_config"]["rope_theta"] = raw["text_config"]["rope_parameters"]["rope_theta"]
    return [old, both]


@pytest.mark.parametrize("kind", ["LlavaConfig", "VipLlavaConfig"])
def test_every_field_at_its_default(kind: str) -> None:
    raw = json.loads(getattr(transformers, kind)(image_token_index=31999).to_json_string(use_diff=False))
    assert read_config(raw).text.hidden_size == 4096
