"""What a `text_config` says of positions: the rotary embedding, which layers have it, and how far a token sees.

Frequencies come from transformers' own functions.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pumice.errors import CheckpointError
from pumice.export.config.checks import require_positive

SCALED = ("linear", "dynamic", "yarn", "llama3", "longrope")
"""Rotary types beside `default`. `dynamic` and `longrope` change beyond a context, where pumice does not go."""
Unturned = Literal["none", "no_rope_layers", "full_attention", "full_attention_beside_windows"]
"""Which layers have no rotary embedding: none; those that the config's list of that name has a 0 for; those that see
everything; or these where others do not."""


def head_width(config: Any) -> int:
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


def rotary(config: Any, head_dim: int, *, partial: bool) -> tuple[tuple[float, ...], float]:
    """Frequencies in radians a position, [turned channels / 2], and the factor on cosine and sine."""
    parameters = dict(config.rope_parameters or {})
    kind = parameters.get("rope_type", "default")
    if kind not in ("default", *SCALED):
        raise CheckpointError(
            f"text_config.rope_parameters has rope_type {kind!r}; supported: default, {', '.join(SCALED)}"
        )
    _require_numbers(parameters)
    turned = _turned(parameters, head_dim, partial=partial)
    try:
        if kind == "default":
            exponents = torch.arange(0, turned, 2, dtype=torch.int64).float() / turned
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
    if len(frequencies) != turned // 2 or not bool((frequencies != 0).all()):
        raise CheckpointError(
            f"text_config.rope_parameters give {len(frequencies)} frequencies, expected {turned // 2} other than 0"
        )
    return tuple(frequencies.tolist()), float(scale)


def context_of(config: Any) -> int:
    """Most tokens of a sequence; of a `longrope` those up to which no cached key would have to be turned again."""
    context: int = config.max_position_embeddings
    parameters = config.rope_parameters or {}
    if parameters.get("rope_type") != "longrope":
        return context
    own = parameters.get("original_max_position_embeddings", context)
    if isinstance(own, bool) or not isinstance(own, int) or own < 1:
        raise CheckpointError(
            f"text_config has original_max_position_embeddings {own!r}, expected a positive integer"
        )
    return min(context, own)


def _turned(parameters: dict[str, Any], head_dim: int, *, partial: bool) -> int:
    """Channels of a head that positions turn."""
    factor = parameters.get("partial_rotary_factor", 1.0)
    factor = 1.0 if factor is None else factor
    if not partial and factor != 1:
        raise CheckpointError(
            f"text_config has partial_rotary_factor {factor}: only 1 is supported of this text model"
        )
    turned = int(head_dim * factor)
    if not 2 <= turned <= head_dim or turned % 2:
        raise CheckpointError(
            f"text_config has partial_rotary_factor {factor}, which turns {turned} of a head's {head_dim} channels: "
            "expected an even number"
        )
    return turned


def _require_numbers(parameters: dict[str, Any]) -> None:
    for key, value in parameters.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        text = key in ("rope_type", "type") and isinstance(value, str)
        flag = key == "truncate" and isinstance(value, bool)
        factors = key in ("short_factor", "long_factor") and isinstance(value, list)
        if value is not None and not (number or text or flag or factors):
            raise CheckpointError(f"text_config.rope_parameters has {key} {value!r:.200}, expected a number")


def unturned_layers(config: Any, rule: Unturned) -> frozenset[int]:
    """Layers without rotary embedding."""
    layers: int = config.num_hidden_layers
    if rule == "none":
        return frozenset()
    if rule == "no_rope_layers":
        given = config.no_rope_layers
        if not isinstance(given, list) or len(given) < layers:
            raise CheckpointError(
                f"text_config.no_rope_layers is {given!r:.200}, expected a list of {layers} numbers 0 or 1"
            )
        found = frozenset(index for index, turned in enumerate(given[:layers]) if not turned)
    else:
        window, types = config.sliding_window, _layer_types(config)
        full = frozenset(index for index, kind in enumerate(types) if kind == "full_attention")
        everywhere = frozenset() if rule == "full_attention_beside_windows" else frozenset(range(layers))
        found = everywhere if window is None else full
    if len(found) == layers:
        raise CheckpointError("text_config leaves no layer with rotary embedding: that is not supported")
    return found


def sliding_windows(config: Any) -> tuple[int | None, ...]:
    """For each layer how many tokens a token sees, None for all."""
    layers: int = config.num_hidden_layers
    window: int | None = getattr(config, "sliding_window", None)
    if window is None:
        return (None,) * layers
    require_positive(config, "text_config.", "sliding_window")
    if window >= config.max_position_embeddings:
        return (None,) * layers
    return tuple(window if kind == "sliding_attention" else None for kind in _layer_types(config))


def _layer_types(config: Any) -> list[str]:
    """`sliding_attention` or `full_attention` for every layer."""
    layers: int = config.num_hidden_layers
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    unknown = sorted(set(map(str, types)) - {"sliding_attention", "full_attention"})
    if unknown or len(types) != layers:
        raise CheckpointError(
            f"text_config.layer_types has {len(types)} entries ({', '.join(map(str, sorted(set(types))))}), "
            f"expected {layers} of full_attention or sliding_attention"
        )
    return list(types)
