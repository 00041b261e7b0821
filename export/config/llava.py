"""A checkpoint's `config.json` → the `LlavaConfig` that the modules are built from.

Defaults that checkpoints leave out come from transformers' own config classes, and their differing names are read
through optimum's normalised configs. Keys that are not known and might change the computation are refused, all of them
in one message with their places and values; those that change nothing are listed in `pumice.export.config.harmless`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from transformers import (
    CONFIG_MAPPING,
    LlavaNextConfig,
    LlavaNextVideoConfig,
    LlavaOnevisionConfig,
    Mistral3Config,
    VipLlavaConfig,
)

from pumice.errors import CheckpointError, UsageError
from pumice.export.checkpoint.support import SUPPORTED_MODEL_TYPES
from pumice.export.config.checks import (
    check_ranges,
    filled,
    one_of,
    refuse_keys,
    refuse_other_dtypes,
    require_epsilon,
    require_flag,
    require_positive,
    unknown_keys,
)
from pumice.export.config.text import read_text_config
from pumice.export.config.text_families import TEXT_FAMILIES
from pumice.export.config.vision import VISION_FAMILIES, read_vision_config
from pumice.manifest.images import MOST_PINPOINTS
from pumice.models.activations import ACTIVATIONS
from pumice.models.config import LlavaConfig, VideoConfig, VisionConfig

MAX_FEATURE_LAYERS = 64
"""Of a list, which may name a layer twice."""
_EXTRA_KEYS = (
    "image_token_id",
    "image_token_index",
    "auto_map",
    "vision_feature_layers",
    "quantization_config",
    "compression_config",
    "spatial_pool_out_channels",
)
"""The two before the last are `pumice.export.checkpoint.quantised`'s; the last is of a pooling that is refused."""
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers")
"""Of the text model as a rule, where trainers look for them; transformers reads its section's, and weights tell too."""
_PARTS = {"llava_onevision": ("siglip_vision_model", "qwen2"), "mistral3": ("pixtral", "mistral")}
"""What transformers takes for the tower and the text model where sections do not say it, by the whole."""
MOST_TILES = 256
"""Of one image."""
_ANYRES_MAX = re.compile(r"anyres_max_([1-9][0-9]{0,4})")
_Row = TypeVar("_Row")


def read_config(raw: Mapping[str, Any]) -> LlavaConfig:
    """Check the parsed `config.json` of a LLaVA or one of its kin (`SUPPORTED_MODEL_TYPES`) and normalise it.

    Raises:
        CheckpointError: an unsupported vision or text model, a value outside what is supported, or an unknown key.
    """
    config = _as_transformers_reads_it(raw)
    vision, text = read_vision_config(config.vision_config), read_text_config(config.text_config)
    vip, merging = isinstance(config, VipLlavaConfig), isinstance(config, Mistral3Config)
    strategy: Any = "full" if merging else "default"
    if not (vip or merging):
        strategy = one_of(config, "vision_feature_select_strategy", "", ("default", "full"))
    _check_selection(vision, strategy, vip)
    onevision = isinstance(config, LlavaOnevisionConfig)
    tiled = onevision or isinstance(config, (LlavaNextConfig, LlavaNextVideoConfig))
    layers = _feature_layers(config.vision_feature_layer, vision.num_hidden_layers)
    return LlavaConfig(
        vision=vision,
        text=text,
        vision_feature_layers=layers,
        vision_feature_select_strategy=strategy,
        projector_hidden_act=one_of(config, "projector_hidden_act", "", ACTIVATIONS),
        multimodal_projector_bias=vip or require_flag(config, "", "multimodal_projector_bias"),
        projector_layer_norm_eps=require_epsilon(config, "", "projector_layernorm_eps") if vip else None,
        image_token_id=_image_token(config),
        tie_word_embeddings=require_flag(config, "", "tie_word_embeddings"),
        image_grid_pinpoints=_pinpoints(config, vision, strategy) if tiled else None,
        anyres_max=_anyres_max(config, vision, strategy) if onevision else None,
        merge=_merge(config, vision, layers) if merging else None,
        video=_video(config, vision, strategy),
    )


def model_types(raw: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """What `config.json` calls the whole, its vision tower and its text model, or what transformers takes them for."""
    whole = raw.get("model_type", "llava")
    vision, text = _PARTS.get(whole, ("clip_vision_model", "llama"))
    return (
        whole,
        _section(raw, "vision_config").get("model_type", vision),
        _section(raw, "text_config").get("model_type", text),
    )


def _as_transformers_reads_it(raw: Mapping[str, Any]) -> Any:
    """transformers' config object, once all keys are known; raises CheckpointError."""
    vision_raw, text_raw = _section(raw, "vision_config"), _section(raw, "text_config")
    whole_type, vision_type, text_type = model_types(raw)
    kind = _supported("whole", whole_type, {name: CONFIG_MAPPING[name] for name in SUPPORTED_MODEL_TYPES})
    vision = _supported("vision", vision_type, VISION_FAMILIES)
    text = _supported("text", text_type, TEXT_FAMILIES)
    sections = [filled(text_raw, text.config), filled(vision_raw, vision.config)]
    refuse_keys(
        [
            *unknown_keys(raw, kind, "", extra=(*_EXTRA_KEYS, *_SIZES), repeated=sections),
            *unknown_keys(text_raw, text.config, "text_config.", extra=text.extra_keys),
            *unknown_keys(vision_raw, vision.config, "vision_config.", extra=vision.extra_keys),
        ]
    )
    for part, where in ((raw, ""), (vision_raw, "vision_config."), (text_raw, "text_config.")):
        check_ranges(part, where)
        refuse_other_dtypes(part, where)
    try:
        return kind.from_dict(dict(raw))
    except Exception as error:  # transformers raises whatever its validators raise
        reason = f"{type(error).__name__} {' '.join(str(error).split())[:400]}"
        raise CheckpointError(
            f"config.json is not a valid LLaVA config: transformers ends with {reason}"
        ) from None


def _check_selection(vision: VisionConfig, strategy: str, vip: bool) -> None:
    if vision.tower == "pixtral" and (vip or strategy != "full"):
        raise CheckpointError(
            "a Pixtral tower has no class token to drop: expected vision_feature_select_strategy 'full' in a llava"
        )
    if strategy == "default" and vision.tower == "siglip" and vision.num_patches < 2:
        raise CheckpointError("vision_feature_select_strategy 'default' drops the only patch of an image")


def _pinpoints(config: Any, vision: VisionConfig, strategy: str) -> tuple[tuple[int, int], ...]:
    """The sizes that images are fitted into: whole tiles of what the tower takes."""
    if vision.tower == "pixtral":
        raise CheckpointError("a Pixtral tower takes images of any size: LLaVA-NeXT's tiles are not for it")
    if vision.tower == "siglip" and strategy == "default":
        raise CheckpointError(
            "vision_feature_select_strategy 'default' drops a patch of a SigLIP tower's tiles: "
            f"expected 'full' in a {config.model_type}"
        )
    tile, given = vision.image_size, config.image_grid_pinpoints
    pairs = (
        [tuple(pair) for pair in given if isinstance(pair, list | tuple)] if isinstance(given, list) else []
    )
    whole = all(len(p) == 2 and all(type(s) is int and s > 0 and s % tile == 0 for s in p) for p in pairs)
    if not 1 <= len(pairs) <= MOST_PINPOINTS or len(pairs) != len(given) or not whole:
        raise CheckpointError(
            f"image_grid_pinpoints is {str(given)[:200]}, expected up to {MOST_PINPOINTS} pairs (height, width) of "
            f"multiples of the tower's {tile} pixels"
        )
    tiles = max(height * width for height, width in pairs) // tile**2
    if tiles > MOST_TILES:
        raise CheckpointError(
            f"image_grid_pinpoints cuts an image into {tiles} tiles, expected at most {MOST_TILES}"
        )
    return tuple((height, width) for height, width in pairs)


def _anyres_max(config: Any, vision: VisionConfig, strategy: str) -> int:
    """How many tiles' features a LLaVA-OneVision keeps of an image, about."""
    if vision.tower == "clip" and strategy == "full":
        raise CheckpointError(
            "vision_feature_select_strategy 'full' keeps the class token of a CLIP tower's tiles: "
            "expected 'default' in a llava_onevision"
        )
    given = config.vision_aspect_ratio
    found = _ANYRES_MAX.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        raise CheckpointError(
            f"vision_aspect_ratio is {given!r:.80}, expected anyres_max_9 or another number"
        )
    return int(found[1])


def _merge(config: Any, vision: VisionConfig, layers: tuple[int, ...]) -> int:
    """How many patches each way a Mistral 3 makes one feature of."""
    if vision.tower != "pixtral":
        raise CheckpointError(
            f"vision model of type {config.vision_config.model_type!r} is not supported in a mistral3: expected pixtral"
        )
    if len(layers) > 1:
        raise CheckpointError(
            f"vision_feature_layer lists {len(layers)} layers, but a mistral3's projector norms the width of one"
        )
    require_positive(config, "", "spatial_merge_size")
    across = vision.image_size // vision.patch_size
    if config.spatial_merge_size > across:
        raise CheckpointError(
            f"spatial_merge_size is {config.spatial_merge_size}, expected at most {across}, the patches across an image"
        )
    return int(config.spatial_merge_size)


def _video(config: Any, vision: VisionConfig, strategy: str) -> VideoConfig | None:
    """How frames are pooled; None where transformers' model takes no videos, or fails on those that it is given."""
    if isinstance(config, LlavaOnevisionConfig):
        pooling: Any = "bilinear"
    elif isinstance(config, LlavaNextVideoConfig):
        pooling = one_of(config, "spatial_pool_mode", "", ("average", "max"))
        side = vision.image_size // vision.patch_size
        fits = strategy == ("default" if vision.tower == "clip" else "full")
        if config.spatial_pool_stride != 2 or side % 2 or not fits:
            return None
    else:
        return None
    token, rows = config.video_token_index, config.text_config.vocab_size
    whole = isinstance(token, int) and not isinstance(token, bool)
    if not whole or not 0 <= token < rows or token == config.image_token_index:
        return None
    return VideoConfig(token_id=token, pooling=pooling)


def _feature_layers(given: object, layers: int) -> tuple[int, ...]:
    """Which of the tower's hidden states are read, as numbers of layers run (0: the embeddings)."""
    listed = list(given) if isinstance(given, (list, tuple)) else [given]
    whole = all(isinstance(layer, int) and not isinstance(layer, bool) for layer in listed)
    if not 1 <= len(listed) <= MAX_FEATURE_LAYERS or not whole:
        raise CheckpointError(
            f"vision_feature_layer is {str(given)[:200]}, expected a layer or a list of at most {MAX_FEATURE_LAYERS}"
        )
    numbers = [int(str(layer)) for layer in listed]
    for layer in numbers:
        if not -layers - 1 <= layer <= layers:
            raise CheckpointError(
                f"vision_feature_layer {layer} is outside the tower's {-layers - 1} … {layers}"
            )
    return tuple(layer if layer >= 0 else layers + 1 + layer for layer in numbers)


def _image_token(config: Any) -> int:
    token, rows = config.image_token_index, config.text_config.vocab_size
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < rows:
        raise CheckpointError(f"image_token_index {token!r} lies outside the embedding table's {rows} rows")
    return token


def _section(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = raw.get(key, {})
    if not isinstance(section, Mapping):
        raise CheckpointError(f"config.json's {key} is {type(section).__name__}, expected an object")
    return section


def _supported(part: str, name: object, rows: Mapping[str, _Row]) -> _Row:
    if not isinstance(name, str) or name not in rows:
        raise CheckpointError(f"{part} model of type {name!r} is not supported; supported: {', '.join(rows)}")
    return rows[name]


LONGEST = 131_072
"""Tokens, unless a longer context is asked for."""


def limit_context(config: LlavaConfig, context_length: int | None) -> LlavaConfig:
    """The config with a context of `context_length` tokens, by default the checkpoint's up to `LONGEST`.

    Raises:
        UsageError: a context that the checkpoint does not have.
    """
    own = config.text.max_position_embeddings
    if context_length is not None and not 1 <= context_length <= own:
        raise UsageError(f"context length is {context_length}, expected 1 to {own} (the checkpoint's)")
    context = min(own, LONGEST) if context_length is None else context_length
    return replace(config, text=replace(config.text, max_position_embeddings=context))


def limit_tiles(config: LlavaConfig, max_tiles: int | None) -> LlavaConfig:
    """The config in which an image is cut into `max_tiles` at most, by default into as many as the checkpoint says.

    Raises:
        UsageError: images are not cut into tiles, or there is no grid of so few.
    """
    if max_tiles is None:
        return config
    if config.image_grid_pinpoints is None:
        raise UsageError("there is a limit to tiles, but this model does not cut images into tiles")
    tile = config.vision.image_size**2
    counts = [height * width // tile for height, width in config.image_grid_pinpoints]
    if max_tiles < min(counts):
        raise UsageError(
            f"at most {max_tiles} tiles were asked for, expected {min(counts)} or more (the smallest grid)"
        )
    return replace(config, max_tiles=max_tiles)
