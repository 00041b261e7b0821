"""A checkpoint's `text_config` → `TextConfig`, by its type's row in `text_families.py`.

Defaults come from transformers' config classes. How a family is added: docs/adding-a-family.md.
"""

from __future__ import annotations

from typing import Any

from optimum.utils import NormalizedTextConfigWithGQA

from pumice.errors import CheckpointError
from pumice.export.config.checks import (
    one_of,
    require_epsilon,
    require_factor,
    require_flag,
    require_positive,
)
from pumice.export.config.positions import (
    context_of,
    head_width,
    rotary,
    sliding_windows,
    unturned_layers,
)
from pumice.export.config.text_families import TEXT_FAMILIES, TextFamily
from pumice.models.activations import ACTIVATIONS
from pumice.models.config import Multipliers, QueryGrowth, TextConfig

_LARGEST_BETA = 100


def read_text_config(config: Any) -> TextConfig:
    """Normalise a text config that transformers has read; raises CheckpointError for what is not supported."""
    family, normal = TEXT_FAMILIES[config.model_type], NormalizedTextConfigWithGQA(config)
    where = "text_config."
    require_positive(config, where, "hidden_size", "intermediate_size", "num_hidden_layers")
    require_positive(config, where, "num_attention_heads", "num_key_value_heads", "vocab_size")
    require_positive(config, where, "max_position_embeddings")
    _require_values(config, family)
    if normal.num_attention_heads % normal.num_key_value_heads:
        raise CheckpointError(
            f"text_config.num_attention_heads {normal.num_attention_heads} is not divisible by "
            f"num_key_value_heads {normal.num_key_value_heads}"
        )
    head_dim = head_width(config)
    inv_freq, scale = rotary(config, head_dim, partial=family.partial)
    epsilon = family.norm_eps
    return TextConfig(
        hidden_size=normal.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=normal.num_layers,
        num_attention_heads=normal.num_attention_heads,
        num_key_value_heads=normal.num_key_value_heads,
        head_dim=head_dim,
        rotary_dim=head_dim,
        vocab_size=normal.vocab_size,
        max_position_embeddings=context_of(config),
        hidden_act=one_of(config, family.act_key, where, ACTIVATIONS),
        rms_norm_eps=require_epsilon(config, where, epsilon) if isinstance(epsilon, str) else epsilon,
        inv_freq=inv_freq,
        rotary_scale=scale,
        sliding_windows=sliding_windows(config),
        unturned_layers=unturned_layers(config, family.unturned),
        qkv_bias=_flag(config, family.qkv_bias),
        o_bias=_flag(config, family.o_bias),
        mlp_bias=_flag(config, family.mlp_bias),
        norm=family.norm,
        norm_weight=family.norm_weight,
        norm_bias=family.norm_bias,
        norm_offset=family.norm_offset,
        norm_places="shared" if _flag(config, family.shared) else family.norm_places,
        qk_norm=family.qk_norm,
        gated=family.gated,
        neighbours=family.neighbours,
        renamed=family.renamed,
        fused=family.fused,
        query_growth=_query_growth(config) if family.grows else None,
        **_scales(config, family),
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


def _require_values(config: Any, family: TextFamily) -> None:
    """Settings that ask for what the decoder does not do."""
    for key, value in family.only:
        given = getattr(config, key, value)
        if given != value and given:
            raise CheckpointError(f"text_config.{key} is {given!r}: only {value!r} is supported")


def _scales(config: Any, family: TextFamily) -> dict[str, Any]:
    """Fields of `TextConfig` that things are multiplied by, or bounded."""
    found: dict[str, Any] = {}
    if family.multiplied:
        keys = ("embedding_multiplier", "residual_multiplier", "attention_multiplier")
        require_factor(config, "text_config.", *keys)
        found["multipliers"] = Multipliers(
            embedding=float(config.embedding_multiplier), residual=float(config.residual_multiplier)
        )
        found["attention_multiplier"] = float(config.attention_multiplier)
    if family.scaled_table:
        found["multipliers"] = Multipliers(table=config.hidden_size**0.5)
    if family.score_scalar is not None:
        require_factor(config, "text_config.", family.score_scalar)
        found["attention_multiplier"] = float(getattr(config, family.score_scalar)) ** -0.5
    if family.softcap is not None and getattr(config, family.softcap) is not None:
        require_factor(config, "text_config.", family.softcap)
        found["softcap"] = float(getattr(config, family.softcap))
    return found


def _flag(config: Any, there: bool | str) -> bool:
    return require_flag(config, "text_config.", there) if isinstance(there, str) else there
