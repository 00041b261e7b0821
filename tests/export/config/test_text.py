"""`text_config`s of every type: what is refused by name, and what is read from where."""

from __future__ import annotations

from typing import Any

import pytest

from pumice.errors import CheckpointError, UsageError
from pumice.export.config.llava import limit_context, read_config
from pumice.models.config import TextConfig
from tests.factory.texts import LONGROPE, SIZES, TEXTS

FULL = ["full_attention"] * 3
TOP: dict[str, Any] = {"model_type": "llava", "image_token_index": 5, "vision_config": {}}


def read(name: str, **keys: Any) -> TextConfig:
    text = SIZES | TEXTS[name] | {"model_type": name.split()[0]} | keys
    return read_config(TOP | {"text_config": text}).text


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("phi", {"qk_layernorm": True}, "text_config.qk_layernorm is True: only False is supported"),
        ("stablelm", {"qk_layernorm": True}, "text_config.qk_layernorm is True: only False"),
        ("cohere", {"use_qk_norm": True}, "text_config.use_qk_norm is True: only False"),
        ("olmo", {"clip_qkv": 8.0}, "text_config.clip_qkv is 8.0: only None is supported"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True: only None"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0, expected a number"),
        ("gemma2", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping is 0.0, expected a number"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("qwen3", {"num_experts": 8}, "8 for text_config.num_experts, which this pumice does not know"),
        ("stablelm", {"partial_rotary_factor": 0.3125}, "turns 5 of a head's 16 channels: expected an even"),
        ("stablelm", {"partial_rotary_factor": 2.0}, "partial_rotary_factor"),
        ("smollm3", {"no_rope_layers": [0, 0, 0]}, "no layer with rotary embedding"),
        (
            "smollm3",
            {"no_rope_layers": [1], "layer_types": ["full_attention"] * 3},
            r"no_rope_layers is \[1\], expected a list of 3",
        ),
        ("cohere2", {"layer_types": FULL}, "no layer with rotary embedding"),
        ("ministral", {"layer_types": ["chunked_attention"] * 3}, "."),
        ("phi3", {"rope_scaling": LONGROPE | {"short_factor": [1.0] * 5}}, "."),
        ("nemotron", {"norm_eps": -1.0}, "text_config.norm_eps is -1.0"),
        ("starcoder2", {"use_bias": "yes"}, "."),
    ],
)
def test_refused(name: str, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        read(name, **keys)
    assert "\n" not in str(caught.value)


def test_a_longrope_ends_where_its_factors_change() -> None:
    """Beyond, transformers would turn every position anew, those in the cache among them."""
    raw = TOP | {"text_config": SIZES | TEXTS["phi3 of phi-4"] | {"model_type": "phi3"}}
    config = read_config(raw)
    assert raw["text_config"]["max_position_embeddings"] == 512
    assert config.text.max_position_embeddings == 256
    assert config.text.rotary_scale > 1
    with pytest.raises(UsageError, match="expected 1 to 256"):
        limit_context(config, 512)


def test_windows_and_positions_of_layers() -> None:
    exaone, cohere = read("exaone4"), read("cohere2")
    assert exaone.sliding_windows == cohere.sliding_windows == (12, None, 12)
    assert exaone.unturned_layers == cohere.unturned_layers == frozenset({1})
    assert read("exaone4 without windows").unturned_layers == frozenset()
    wide = read("cohere2", sliding_window=512)  # nothing is hidden, and what is turned stays as it was
    assert wide.sliding_windows == (None,) * 3
    assert wide.unturned_layers == frozenset({1})
    assert read("smollm3", no_rope_layers=[1, 0, 1]).unturned_layers == frozenset({1})
    assert read("phi3").sliding_windows == (20, 20)


def test_keys_that_types_call_otherwise() -> None:
    assert read("starcoder2", norm_epsilon=0.25).rms_norm_eps == 0.25
    assert read("gemma2", hidden_activation="relu", hidden_act="gelu").hidden_act == "relu"
    assert read("gemma", hidden_act="gelu", hidden_activation="silu").hidden_act == "gelu_pytorch_tanh"
    assert read("gemma2", attn_logit_softcapping=None).softcap is None
    assert read("stablelm", partial_rotary_factor=1.0).inv_freq[0] == 1.0
    assert read("stablelm", use_parallel_residual=True).norm_places == "shared"
