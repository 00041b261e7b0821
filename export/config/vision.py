"""A checkpoint's `vision_config` → `VisionConfig`: a row of `VISION_FAMILIES`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from optimum.utils import NormalizedVisionConfig
from transformers import CLIPVisionConfig, PixtralVisionConfig, PreTrainedConfig, SiglipVisionConfig

from pumice.errors import CheckpointError
from pumice.export.config.checks import one_of, require_epsilon, require_positive
from pumice.models.activations import ACTIVATIONS
from pumice.models.config import Tower, VisionConfig


@dataclass(frozen=True, kw_only=True)
class VisionFamily:
    """What a tower does otherwise than the others.

    `extra_keys` are known beside the fields of `config`; towers have no embeddings to tie. `norm_eps` is given where
    transformers' modules fix it and the config does not say it. `rotary`: positions are turned in, in two dimensions.
    """

    config: type[PreTrainedConfig]
    tower: Tower
    extra_keys: tuple[str, ...] = ("tie_word_embeddings",)
    norm_eps: float | None = None
    rotary: bool = False


VISION_FAMILIES = {
    "clip_vision_model": VisionFamily(config=CLIPVisionConfig, tower="clip"),
    "siglip_vision_model": VisionFamily(
        config=SiglipVisionConfig,
        tower="siglip",
        extra_keys=("tie_word_embeddings", "vision_use_head"),  # a LLaVA never reads the pooling head
    ),
    "pixtral": VisionFamily(
        config=PixtralVisionConfig,
        tower="pixtral",
        extra_keys=("tie_word_embeddings", "rope_theta", "rope_parameters", "rope_scaling"),
        norm_eps=1e-5,
        rotary=True,
    ),
}
"""By the `model_type` of a `vision_config`."""


def read_vision_config(config: Any) -> VisionConfig:
    """Normalise a vision config that transformers has read; raises CheckpointError for what is not supported."""
    family, where = VISION_FAMILIES[config.model_type], "vision_config."
    for key in ("image_size", "patch_size"):
        if not isinstance(getattr(config, key), int):
            raise CheckpointError(
                f"vision_config.{key} is {getattr(config, key)!r}: only square images are supported"
            )
    require_positive(config, where, "hidden_size", "intermediate_size", "num_hidden_layers")
    require_positive(config, where, "num_attention_heads", "image_size", "patch_size", "num_channels")
    size, patch, channels = config.image_size, config.patch_size, NormalizedVisionConfig(config).num_channels
    if config.hidden_size % config.num_attention_heads:
        raise CheckpointError(
            f"vision_config.hidden_size {config.hidden_size} is not divisible by its {config.num_attention_heads} heads"
        )
    if channels != 3:
        raise CheckpointError(f"vision_config.num_channels is {channels}: only 3 (RGB) is supported")
    if size < patch:
        raise CheckpointError(f"vision_config.image_size {size} is smaller than one patch of {patch} pixels")
    fixed = family.norm_eps
    return VisionConfig(
        tower=family.tower,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_channels=channels,
        image_size=size,
        patch_size=patch,
        hidden_act=one_of(config, "hidden_act", where, ACTIVATIONS),
        layer_norm_eps=require_epsilon(config, where, "layer_norm_eps") if fixed is None else fixed,
        rope_theta=_rotary_theta(config) if family.rotary else None,
    )


def _rotary_theta(config: Any) -> float:
    """The base of the two-dimensional rotary embedding; heads must hold pairs for both directions."""
    parameters = dict(config.rope_parameters or {})
    kind = parameters.pop("rope_type", "default")
    theta = parameters.pop("rope_theta", 10000.0)
    if kind not in ("default", "axial", config.default_rope_type) or parameters:
        raise CheckpointError(
            f"vision_config.rope_parameters has {dict(config.rope_parameters)}: only rope_theta is supported"
        )
    head_dim = config.hidden_size // config.num_attention_heads
    if config.head_dim not in (None, head_dim):
        raise CheckpointError(
            f"vision_config.head_dim is {config.head_dim!r}, expected {head_dim} (hidden_size / num_attention_heads)"
        )
    if head_dim % 4:
        raise CheckpointError(
            f"vision_config's heads are {head_dim} wide (hidden_size / num_attention_heads), expected a multiple of 4"
        )
    if isinstance(theta, bool) or not isinstance(theta, (int, float)) or not 0 < theta < math.inf:
        raise CheckpointError(f"vision_config has rope_theta {theta!r}, expected a finite number above 0")
    return float(theta)
