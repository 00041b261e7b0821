"""A checkpoint's `config.json` → the `LlavaConfig` that the modules are built from.

Defaults that checkpoints leave out come from transformers' own config classes, and their differing names are read
through optimum's normalised configs. A key that is not known and might change the computation raises, naming itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum.utils import NormalizedTextConfigWithGQA, NormalizedVisionConfig
from transformers import CLIPVisionConfig, GenerationConfig, PreTrainedConfig
from transformers import LlamaConfig as HfLlamaConfig
from transformers import LlavaConfig as HfLlavaConfig

from pumice.errors import CheckpointError
from pumice.models.config import LlavaConfig, TextConfig, VisionConfig
from pumice.models.fused import ACTIVATIONS

VISION_TYPES: dict[str, type[PreTrainedConfig]] = {"clip_vision_model": CLIPVisionConfig}
TEXT_TYPES: dict[str, type[PreTrainedConfig]] = {"llama": HfLlamaConfig}

# Written by older transformers into every config, and of no effect on a forward pass.
_LEGACY = frozenset(
    [
        "_name_or_path",
        "_attn_implementation_autoset",
        "torch_dtype",
        "transformers_version",
        "torchscript",
        "use_bfloat16",
        "pruned_heads",
        "tf_legacy_loss",
        "add_cross_attention",
        "cross_attention_hidden_size",
        "is_decoder",
        "is_encoder_decoder",
        "tie_encoder_decoder",
        "finetuning_task",
        "tokenizer_class",
        "prefix",
        "task_specific_params",
        "problem_type",
        "decoder_start_token_id",
        "sep_token_id",
        "dropout",
        "ignore_index",
        "vocab_size",
        "projection_dim",
        "exponential_decay_length_penalty",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "suppress_tokens",
        "begin_suppress_tokens",
        "return_dict_in_generate",
        "use_cache",
        "attn_implementation",
        "unsloth_version",
        "unsloth_fixed",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
    ]
)
_ROPE = frozenset(("rope_theta", "rope_scaling", "rope_parameters"))


def read_config(raw: Mapping[str, Any]) -> LlavaConfig:
    """Check the parsed `config.json` of a LLaVA and normalise it.

    Raises:
        CheckpointError: an unsupported vision or text model, a value outside what is supported, or an unknown key.
    """
    vision_raw, text_raw = _section(raw, "vision_config"), _section(raw, "text_config")
    vision_type = _supported("vision", vision_raw.get("model_type", "clip_vision_model"), VISION_TYPES)
    text_type = _supported("text", text_raw.get("model_type", "llama"), TEXT_TYPES)
    _refuse_unknown_keys(raw, HfLlavaConfig, "", extra={"image_token_id", "auto_map"})
    _refuse_unknown_keys(vision_raw, vision_type, "vision_config.")
    _refuse_unknown_keys(text_raw, text_type, "text_config.", extra=_ROPE)
    try:
        config = HfLlavaConfig.from_dict(dict(raw))
    except Exception as error:  # transformers raises whatever its validators raise
        reason = " ".join(str(error).split())
        raise CheckpointError(f"config.json is not a valid LLaVA config: {reason}") from None
    vision = _vision(config.vision_config)
    return LlavaConfig(
        vision=vision,
        text=_text(config.text_config),
        vision_feature_layer=_feature_layer(config.vision_feature_layer, vision.num_hidden_layers),
        vision_feature_select_strategy=_one_of(
            config, "vision_feature_select_strategy", "", ("default", "full")
        ),
        projector_hidden_act=_one_of(config, "projector_hidden_act", "", ACTIVATIONS),
        multimodal_projector_bias=config.multimodal_projector_bias,
        image_token_id=_image_token(config),
        tie_word_embeddings=config.tie_word_embeddings,
    )


def _vision(config: Any) -> VisionConfig:
    normal = NormalizedVisionConfig(config)
    for key in ("image_size", "patch_size"):
        if not isinstance(getattr(config, key), int):
            raise CheckpointError(
                f"vision_config.{key} is {getattr(config, key)!r}: only square pictures are supported"
            )
    size, patch = normal.image_size, config.patch_size
    _positive(
        config,
        "vision_config.",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    )
    _positive(config, "vision_config.", "image_size", "patch_size", "num_channels")
    if config.hidden_size % config.num_attention_heads:
        raise CheckpointError(
            f"vision_config.hidden_size {config.hidden_size} is not divisible by its {config.num_attention_heads} heads"
        )
    if normal.num_channels != 3:
        raise CheckpointError(
            f"vision_config.num_channels is {normal.num_channels}: only 3 (RGB) is supported"
        )
    if size < patch:
        raise CheckpointError(f"vision_config.image_size {size} is smaller than one patch of {patch} pixels")
    return VisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_channels=normal.num_channels,
        image_size=size,
        patch_size=patch,
        hidden_act=_one_of(config, "hidden_act", "vision_config.", ACTIVATIONS),
        layer_norm_eps=config.layer_norm_eps,
    )


def _text(config: Any) -> TextConfig:
    normal = NormalizedTextConfigWithGQA(config)
    _positive(
        config, "text_config.", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
    )
    _positive(
        config, "text_config.", "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"
    )
    if normal.num_attention_heads % normal.num_key_value_heads:
        raise CheckpointError(
            f"text_config.num_attention_heads {normal.num_attention_heads} is not divisible by "
            f"num_key_value_heads {normal.num_key_value_heads}"
        )
    return TextConfig(
        hidden_size=normal.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=normal.num_layers,
        num_attention_heads=normal.num_attention_heads,
        num_key_value_heads=normal.num_key_value_heads,
        head_dim=config.head_dim,
        rotary_dim=config.head_dim,
        vocab_size=normal.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        hidden_act=_one_of(config, "hidden_act", "text_config.", ACTIVATIONS),
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=_rope_theta(config),
        attention_bias=config.attention_bias,
        mlp_bias=config.mlp_bias,
    )


def _rope_theta(config: Any) -> float:
    """transformers 5 gathers the older `rope_theta` and `rope_scaling` into `rope_parameters`."""
    parameters = dict(config.rope_parameters or {})
    kind = parameters.pop("rope_type", "default")
    theta = parameters.pop("rope_theta", 10000.0)
    if kind != "default":
        raise CheckpointError(
            f"text_config.rope_parameters has rope_type {kind!r}: only 'default' is supported"
        )
    if parameters:
        raise CheckpointError(f"text_config.rope_parameters has {sorted(parameters)}, which is not supported")
    return float(theta)


def _feature_layer(layer: object, layers: int) -> int:
    """Which of the tower's hidden states is read, as a number of layers to run (0: the embeddings)."""
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise CheckpointError(
            f"vision_feature_layer is {layer!r}: only a single layer (an integer) is supported"
        )
    index = layer if layer >= 0 else layers + 1 + layer
    if not 0 <= index <= layers:
        raise CheckpointError(f"vision_feature_layer {layer} is outside the tower's {-layers - 1} … {layers}")
    return index


def _image_token(config: Any) -> int:
    token, rows = config.image_token_index, config.text_config.vocab_size
    if not 0 <= token < rows:
        raise CheckpointError(f"image_token_index {token} lies outside the embedding table's {rows} rows")
    return int(token)


def _section(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = raw.get(key, {})
    if not isinstance(section, Mapping):
        raise CheckpointError(f"config.json's {key} is {type(section).__name__}, expected an object")
    return section


def _supported(
    part: str, name: object, types: Mapping[str, type[PreTrainedConfig]]
) -> type[PreTrainedConfig]:
    if not isinstance(name, str) or name not in types:
        raise CheckpointError(
            f"{part} model of type {name!r} is not supported; supported: {', '.join(types)}"
        )
    return types[name]


def _refuse_unknown_keys(
    raw: Mapping[str, Any],
    kind: type[PreTrainedConfig],
    where: str,
    extra: set[str] | frozenset[str] = frozenset(),
) -> None:
    known = {
        *kind().to_dict(),
        *PreTrainedConfig().to_dict(),
        *GenerationConfig().to_dict(),
        *_LEGACY,
        *extra,
    }
    unknown = sorted(where + key for key in raw if key not in known and raw[key] is not None)
    if unknown:
        raise CheckpointError(
            f"config.json has {', '.join(unknown)}, which this pumice does not know and which may change the result"
        )


def _one_of(config: Any, key: str, where: str, allowed: Any) -> Any:
    value = getattr(config, key)
    if value not in allowed:
        raise CheckpointError(f"{where}{key} is {value!r}; supported: {', '.join(allowed)}")
    return value


def _positive(config: Any, where: str, *keys: str) -> None:
    for key in keys:
        value = getattr(config, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{where}{key} is {value!r}, expected a positive integer")
