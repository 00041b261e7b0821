"""A checkpoint's `text_config` → `TextConfig`: a row of `TEXT_FAMILIES`, and the rotary embedding's variants.

Defaults come from transformers' config classes, frequencies from transformers' own functions. How a family is added:
docs/adding-a-family.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from optimum.utils import NormalizedTextConfigWithGQA
from transformers import (
    GraniteConfig,
    LlamaConfig,
    Ministral3Config,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pumice.errors import CheckpointError
from pumice.export.config.checks import (
    one_of,
    require_epsilon,
    require_factor,
    require_flag,
    require_positive,
)
from pumice.models.activations import ACTIVATIONS
from pumice.models.config import Multipliers, QueryGrowth, TextConfig

ROTARY_KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings")
"""Keys that transformers reads beside the config classes' own fields."""


@dataclass(frozen=True, kw_only=True)
class TextFamily:
    """What a text model does otherwise than the others, which are decoders of the Llama line all.

    A bias is there or not, or the config has a key that says it. `extra_keys` are known beside the fields of `config`.
    `norm_offset` is what the model adds to the stored weights of its norms; `multiplied` says that the config has
    Granite's multipliers, `grows` that its rotary parameters say how queries grow with their position. Where heads have
    a width of their own, or layers a sliding window, the config class has the key.
    """

    config: type[PreTrainedConfig]
    extra_keys: tuple[str, ...] = ROTARY_KEYS
    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    norm_offset: float = 0.0
    multiplied: bool = False
    grows: bool = False


TEXT_FAMILIES = {
    "llama": TextFamily(
        config=LlamaConfig, qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias"
    ),
    "mistral": TextFamily(config=MistralConfig),
    "ministral3": TextFamily(config=Ministral3Config, grows=True),
    "granite": TextFamily(
        config=GraniteConfig,
        extra_keys=(*ROTARY_KEYS, "head_dim"),
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        mlp_bias="mlp_bias",
        multiplied=True,
    ),
    "qwen2": TextFamily(config=Qwen2Config, extra_keys=(*ROTARY_KEYS, "head_dim"), qkv_bias=True),
}
"""By the `model_type` of a `text_config`."""

_LARGEST_BETA = 100
_SCALED = ("linear", "dynamic", "yarn", "llama3")
"""Rotary types beside `default`. `dynamic` changes only beyond the context, where pumice does not go."""


def read_text_config(config: Any) -> TextConfig:
    """Normalise a text config that transformers has read; raises CheckpointError for what is not supported."""
    family, normal = TEXT_FAMILIES[config.model_type], NormalizedTextConfigWithGQA(config)
    where = "text_config."
    require_positive(config, where, "hidden_size", "intermediate_size", "num_hidden_layers")
    require_positive(config, where, "num_attention_heads", "num_key_value_heads", "vocab_size")
    require_positive(config, where, "max_position_embeddings")
    if normal.num_attention_heads % normal.num_key_value_heads:
        raise CheckpointError(
            f"text_config.num_attention_heads {normal.num_attention_heads} is not divisible by "
            f"num_key_value_heads {normal.num_key_value_heads}"
        )
    head_dim = _head_dim(config)
    inv_freq, scale = _rotary(config, head_dim)
    return TextConfig(
        hidden_size=normal.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=normal.num_layers,
        num_attention_heads=normal.num_attention_heads,
        num_key_value_heads=normal.num_key_value_heads,
        head_dim=head_dim,
        rotary_dim=head_dim,
        vocab_size=normal.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        hidden_act=one_of(config, "hidden_act", where, ACTIVATIONS),
        rms_norm_eps=require_epsilon(config, where, "rms_norm_eps"),
        inv_freq=inv_freq,
        rotary_scale=scale,
        sliding_windows=_sliding_windows(config),
        qkv_bias=_bias(config, family.qkv_bias),
        o_bias=_bias(config, family.o_bias),
        mlp_bias=_bias(config, family.mlp_bias),
        norm_offset=family.norm_offset,
        **(_multipliers(config) if family.multiplied else {}),
        query_growth=_query_growth(config) if family.grows else None,
    )


def _query_growth(config: Any) -> QueryGrowth:
    """What Ministral 3's rotary parameters say of it; transformers fails without."""
    parameters = dict(config.rope_parameters or {})
    beta: Any = parameters.get("llama_4_scaling_beta")
    every: Any = parameters.get("original_max_position_embeddings")
    numbers = type(beta) in (int, float) and type(every) is int
    if not numbers or not 0 <= beta <= _LARGEST_BETA or every < 1:
        raise CheckpointError(
            f"text_config.rope_parameters has llama_4_scaling_beta {beta!r} and original_max_position_embeddings "
            f"{every!r}, expected a number from 0 to {_LARGEST_BETA} and a positive integer"
        )
    return QueryGrowth(beta=float(beta), every=every)


def _multipliers(config: Any) -> dict[str, Any]:
    """Fields of `TextConfig` that Granite's keys make."""
    require_factor(
        config,
        "text_config.",
        "embedding_multiplier",
        "residual_multiplier",
        "attention_multiplier",
    )
    return {
        "multipliers": Multipliers(
            embedding=float(config.embedding_multiplier),
            residual=float(config.residual_multiplier),
        ),
        "attention_multiplier": float(config.attention_multiplier),
    }


def _bias(config: Any, there: bool | str) -> bool:
    return require_flag(config, "text_config.", there) if isinstance(there, str) else there


def _head_dim(config: Any) -> int:
    """The config's own, or an equal share of the width."""
    given = getattr(config, "head_dim", None)
    if given is None:
        width, heads = config.hidden_size, config.num_attention_heads
        if width % heads:
            raise CheckpointError(f"text_config.hidden_size {width} is not divisible by its {heads} heads")
        given = width // heads
    if isinstance(given, bool) or not isinstance(given, int) or given < 2 or given % 2:
        raise CheckpointError(
            f"text_config.head_dim is {given!r}, expected an even number: rotary embedding turns pairs"
        )
    return given


def _rotary(config: Any, head_dim: int) -> tuple[tuple[float, ...], float]:
    """Frequencies in radians a position, [head_dim / 2], and the factor on cosine and sine."""
    parameters = dict(config.rope_parameters or {})
    kind = parameters.get("rope_type", "default")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(
            f"text_config has partial_rotary_factor {parameters['partial_rotary_factor']}: only 1 is supported"
        )
    if kind not in ("default", *_SCALED):
        raise CheckpointError(
            f"text_config.rope_parameters has rope_type {kind!r}; supported: default, {', '.join(_SCALED)}"
        )
    _require_numbers(parameters)
    try:
        if kind == "default":
            exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
            frequencies, scale = 1.0 / (parameters.get("rope_theta", 10000.0) ** exponents), 1.0
        else:
            frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    except Exception as error:  # transformers' functions raise whatever arithmetic on odd values raises
        raise CheckpointError(
            f"text_config.rope_parameters {parameters} cannot be used: {type(error).__name__} {error}"
        ) from None
    if not bool(torch.isfinite(frequencies).all()) or not math.isfinite(scale):
        raise CheckpointError(
            f"text_config.rope_parameters {parameters} give frequencies or a scale that are not finite"
        )
    return tuple(frequencies.tolist()), float(scale)


def _require_numbers(parameters: dict[str, Any]) -> None:
    for key, value in parameters.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        text = key in ("rope_type", "type") and isinstance(value, str)
        flag = key == "truncate" and isinstance(value, bool)
        if value is not None and not (number or text or flag):
            raise CheckpointError(f"text_config.rope_parameters has {key} {value!r}, expected a number")


def _sliding_windows(config: Any) -> tuple[int | None, ...]:
    """For each layer how many tokens a token sees, None for all."""
    layers: int = config.num_hidden_layers
    context: int = config.max_position_embeddings
    window: int | None = getattr(config, "sliding_window", None)
    if window is None:
        return (None,) * layers
    require_positive(config, "text_config.", "sliding_window")
    if window >= context:
        return (None,) * layers
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    unknown = sorted(set(map(str, types)) - {"sliding_attention", "full_attention"})
    if unknown or len(types) != layers:
        raise CheckpointError(
            f"text_config.layer_types has {len(types)} entries ({', '.join(map(str, sorted(set(types))))}), "
            f"expected {layers} of full_attention or sliding_attention"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in types)
