"""Text models by type: what each does otherwise than a Llama, which is what is read of their configs.

Enters: the `model_type` of a `text_config`. Leaves: a `TextFamily`. One more is one row more (docs/adding-a-family.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import transformers
from transformers import PreTrainedConfig

from pumice.export.config.positions import Unturned
from pumice.models.config import NormPlaces, QkNorm

ROTARY_KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings")
"""Keys that transformers reads beside the config classes' own fields."""
PARTIAL_KEYS = (*ROTARY_KEYS, "partial_rotary_factor")


@dataclass(frozen=True, kw_only=True)
class TextFamily:
    """What a text model does otherwise than the others, which are decoders of the Llama line all.

    A bias is there or not, or the config has a key that says it; so with `shared`, attention and MLP behind one norm.
    `extra_keys` are known beside the fields of `config`; `only` are keys with the one value that is supported.
    `norm_offset` is what the model adds to the stored weights of its norms; `multiplied` says that the config has
    Granite's multipliers, `scaled_table` that words are times √width; `partial`, that the config may leave channels of
    a head unturned; `grows`, that its rotary parameters say how queries grow with their position. Where heads have a
    width of their own, or layers a sliding window, the config class has the key. The other fields are `TextConfig`'s.
    """

    config: type[PreTrainedConfig]
    extra_keys: tuple[str, ...] = ROTARY_KEYS
    only: tuple[tuple[str, Any], ...] = ()
    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    act_key: str = "hidden_act"
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: str | float = "rms_norm_eps"
    norm_weight: bool = True
    norm_bias: bool = False
    norm_offset: float = 0.0
    norm_places: NormPlaces = "before"
    shared: bool | str = False
    qk_norm: QkNorm = "none"
    gated: bool = True
    multiplied: bool = False
    grows: bool = False
    scaled_table: bool = False
    partial: bool = False
    neighbours: bool = False
    unturned: Unturned = "none"
    score_scalar: str | None = None
    softcap: str | None = None
    renamed: tuple[tuple[str, str], ...] = ()
    fused: tuple[str, ...] = ()


_BIASES: dict[str, Any] = {"qkv_bias": "attention_bias", "o_bias": "attention_bias"}
_LLAMA_BIASES: dict[str, Any] = {**_BIASES, "mlp_bias": "mlp_bias"}
_LAYER_NORM: dict[str, Any] = {"norm": "layer", "norm_bias": True, "norm_eps": "layer_norm_eps"}
_COHERE: dict[str, Any] = {**_BIASES, **_LAYER_NORM, "norm_bias": False, "shared": True, "neighbours": True}
_NORMS_BEHIND = (
    ("attention_layernorm", "post_attention_layernorm"),
    ("mlp_layernorm", "post_feedforward_layernorm"),
)


TEXT_FAMILIES = {
    "llama": TextFamily(config=transformers.LlamaConfig, **_LLAMA_BIASES),
    "mistral": TextFamily(config=transformers.MistralConfig),
    "ministral": TextFamily(config=transformers.MinistralConfig),
    "ministral3": TextFamily(config=transformers.Ministral3Config, grows=True),
    "granite": TextFamily(
        config=transformers.GraniteConfig,
        extra_keys=(*ROTARY_KEYS, "head_dim"),
        **_LLAMA_BIASES,
        multiplied=True,
    ),
    "qwen2": TextFamily(
        config=transformers.Qwen2Config, extra_keys=(*ROTARY_KEYS, "head_dim"), qkv_bias=True
    ),
    "qwen3": TextFamily(config=transformers.Qwen3Config, **_BIASES, qk_norm="head"),
    "phi3": TextFamily(
        config=transformers.Phi3Config,
        extra_keys=PARTIAL_KEYS,
        partial=True,
        fused=("qkv", "gate_up"),
    ),
    "phi": TextFamily(
        config=transformers.PhiConfig,
        extra_keys=PARTIAL_KEYS,
        only=(("qk_layernorm", False),),
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        **_LAYER_NORM,
        shared=True,
        partial=True,
        gated=False,
        renamed=(
            ("self_attn.o_proj", "self_attn.dense"),
            ("mlp.up_proj", "mlp.fc1"),
            ("mlp.down_proj", "mlp.fc2"),
            ("norm", "final_layernorm"),
        ),
    ),
    "gemma": TextFamily(
        config=transformers.GemmaConfig,
        extra_keys=(*ROTARY_KEYS, "hidden_activation"),  # releases have both keys; one of them is read
        only=(("use_bidirectional_attention", None),),
        **_BIASES,
        norm_offset=1.0,
        scaled_table=True,
    ),
    "gemma2": TextFamily(
        config=transformers.Gemma2Config,
        extra_keys=(*ROTARY_KEYS, "hidden_act"),
        only=(("use_bidirectional_attention", None),),
        **_BIASES,
        act_key="hidden_activation",
        norm_offset=1.0,
        norm_places="around",
        scaled_table=True,
        score_scalar="query_pre_attn_scalar",
        softcap="attn_logit_softcapping",
        renamed=(*_NORMS_BEHIND, ("post_attention_layernorm", "pre_feedforward_layernorm")),
    ),
    "olmo": TextFamily(
        config=transformers.OlmoConfig,
        only=(("clip_qkv", None),),
        **_BIASES,
        norm="layer",
        norm_weight=False,
        norm_eps=1e-5,
    ),
    "olmo2": TextFamily(
        config=transformers.Olmo2Config,
        **_BIASES,
        norm_places="after",
        qk_norm="width",
        renamed=_NORMS_BEHIND,
    ),
    "smollm3": TextFamily(
        config=transformers.SmolLM3Config,
        **_LLAMA_BIASES,
        unturned="no_rope_layers",
    ),
    "stablelm": TextFamily(
        config=transformers.StableLmConfig,
        extra_keys=PARTIAL_KEYS,
        only=(("qk_layernorm", False),),
        qkv_bias="use_qkv_bias",
        **_LAYER_NORM,
        shared="use_parallel_residual",
        partial=True,
    ),
    "starcoder2": TextFamily(
        config=transformers.Starcoder2Config,
        qkv_bias="use_bias",
        o_bias="use_bias",
        mlp_bias="use_bias",
        norm="layer",
        norm_bias=True,
        norm_eps="norm_epsilon",
        gated=False,
        renamed=(("mlp.up_proj", "mlp.c_fc"), ("mlp.down_proj", "mlp.c_proj")),
    ),
    "cohere": TextFamily(config=transformers.CohereConfig, only=(("use_qk_norm", False),), **_COHERE),
    "cohere2": TextFamily(
        config=transformers.Cohere2Config,
        extra_keys=(*ROTARY_KEYS, "head_dim", "sliding_window_pattern"),
        **_COHERE,
        unturned="full_attention",
    ),
    "helium": TextFamily(config=transformers.HeliumConfig, qkv_bias="attention_bias", neighbours=True),
    "glm": TextFamily(
        config=transformers.GlmConfig,
        extra_keys=PARTIAL_KEYS,
        qkv_bias="attention_bias",
        partial=True,
        neighbours=True,
        fused=("gate_up",),
    ),
    "glm4": TextFamily(
        config=transformers.Glm4Config,
        extra_keys=PARTIAL_KEYS,
        qkv_bias="attention_bias",
        norm_places="around",
        partial=True,
        neighbours=True,
        renamed=(
            ("attention_layernorm", "post_self_attn_layernorm"),
            ("mlp_layernorm", "post_mlp_layernorm"),
        ),
        fused=("gate_up",),
    ),
    "exaone4": TextFamily(
        config=transformers.Exaone4Config,
        norm_places="after",
        qk_norm="head",
        unturned="full_attention_beside_windows",
        renamed=_NORMS_BEHIND,
    ),
    "nemotron": TextFamily(
        config=transformers.NemotronConfig,
        extra_keys=PARTIAL_KEYS,
        **_LLAMA_BIASES,
        norm="layer",
        norm_bias=True,
        norm_eps="norm_eps",
        norm_offset=1.0,
        partial=True,
        gated=False,
    ),
    "arcee": TextFamily(config=transformers.ArceeConfig, **_LLAMA_BIASES, gated=False),
    "seed_oss": TextFamily(
        config=transformers.SeedOssConfig,
        qkv_bias="attention_bias",
        o_bias="attention_out_bias",
        mlp_bias="mlp_bias",
    ),
    "ernie4_5": TextFamily(
        config=transformers.Ernie4_5Config,
        qkv_bias="use_bias",
        o_bias="use_bias",
        mlp_bias="use_bias",
        neighbours=True,
    ),
}
"""By the `model_type` of a `text_config`."""
