"""Keys of a `config.json` that change nothing of what is computed, each under its reason.

Enters: a key, its value, and the section that it stands in. Leaves: whether a reader may pass it over. They are what
trainers, converters and other tools leave behind: transformers' modules for the supported types never read them, or not
at that value. `tests/export/config/test_harmless.py` holds each against transformers' own logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

ALWAYS: dict[str, tuple[str, ...]] = {
    "fields of transformers' own base classes, older versions' among them": (
        "_commit_hash",
        "_name_or_path",
        "_pre_quantization_dtype",
        "add_cross_attention",
        "begin_suppress_tokens",
        "bos_token_id",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "id2label",
        "ignore_index",
        "is_composition",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "name_or_path",
        "num_choices",
        "num_labels",
        "pad_token_id",
        "prefix",
        "problem_type",
        "projection_dim",
        "pruned_heads",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "use_bfloat16",
        "vocab_size",
    ),
    "how attention and the cache are computed, not what": (
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_attn_implementation_internal",
        "_experts_implementation",
        "_experts_implementation_internal",
        "_flash_attn_2_enabled",
        "attn_implementation",
        "experts_implementation",
        "pretraining_tp",
        "use_cache",
        "use_flash_attention",
        "use_flash_attention_2",
        "use_flash_attn",
    ),
    "for training alone": (
        "activation_dropout",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "attn_pdrop",
        "classifier_dropout",
        "drop_path_rate",
        "dropout",
        "embd_pdrop",
        "gradient_checkpointing",
        "hidden_dropout",
        "hidden_dropout_prob",
        "init_std",
        "initializer_factor",
        "initializer_range",
        "is_training",
        "label_smoothing",
        "layerdrop",
        "neftune_noise_alpha",
        "resid_pdrop",
        "unsloth_fixed",
        "unsloth_version",
        "use_labels",
    ),
    "of the shapes that somebody trained or tested with": (
        "batch_size",
        "encoder_seq_length",
        "max_length",
        "max_seq_len",
        "max_seq_length",
        "max_sequence_length",
        "model_max_length",
        "seq_length",
        "scope",
        "type_sequence_label_size",
        "type_vocab_size",
        "use_input_mask",
        "use_token_type_ids",
    ),
    "of the original LLaVA's trainer, whose images and tokens the processor's files describe": (
        "add_faster_video",
        "add_time_instruction",
        "delay_load",
        "faster_token_stride",
        "force_sample",
        "image_aspect_ratio",
        "image_crop_resolution",
        "image_grid_pinpoints",
        "image_split_resolution",
        "lora_enable",
        "pos_skipping_range",
        "pretrain_mm_mlp_adapter",
        "use_image_newline_parameter",
        "use_mm_proj",
        "use_pos_skipping",
        "vision_tower",
        "vision_tower_pretrained",
    ),
    "for other tools and classes": (
        "image_processor_type",
        "max_window_layers",
        "model_name",
        "num_image_tokens",
        "processor_class",
        "projection_size",
        "transformers.js_config",
        "video_token_id",
        "video_token_index",
        "vision_use_head",
    ),
}
"""By reason. `max_window_layers` and `vision_use_head` are read where a family's own config class has them."""

PREFIXES = ("freeze_", "mm_", "tokenizer_", "tune_", "unfreeze_")
"""Of the original LLaVA's trainer. No config class of a supported type has a field that begins so."""

_KNOWN = frozenset(key for keys in ALWAYS.values() for key in keys)

AT_VALUES: dict[str, tuple[Any, ...]] = {
    "alibi": (False,),
    "attention_bias": (False,),
    "embedding_multiplier": (1,),
    "is_causal": (True,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "qk_layernorm": (False,),
    "residual_multiplier": (1,),
    "rope_interleaved": (False,),
    "rotary_pct": (1,),
    "spatial_merge_size": (1,),
    "use_qk_norm": (False,),
    "use_sliding_window": (False,),
}
"""Another value asks for what the supported families do not do, where their own config class has no such key."""


def _seen_whole(value: Any, section: Mapping[str, Any]) -> bool:
    """A window that no context fills."""
    context = section.get("max_position_embeddings")
    return all(type(number) is int for number in (value, context)) and value >= context


def _all_full(value: Any, section: Mapping[str, Any]) -> bool:
    """Layers that all see everything, as they do without this key."""
    window = section.get("sliding_window", None if section.get("model_type", "llama") == "llama" else 0)
    full = isinstance(value, list) and all(kind == "full_attention" for kind in value)
    return full and len(value) == section.get("num_hidden_layers") and window is None


def _equal_share(value: Any, section: Mapping[str, Any]) -> bool:
    """The width of a head that follows from width and heads."""
    width, heads = section.get("hidden_size"), section.get("num_attention_heads")
    return all(type(number) is int for number in (value, width, heads)) and value * heads == width


_AS_THE_REST: dict[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "head_dim": _equal_share,
    "layer_types": _all_full,
    "sliding_window": _seen_whole,
}
"""What repeats that the rest of the section says."""


def is_harmless(key: str, value: Any, section: Mapping[str, Any]) -> bool:
    """Whether `key`, which no config class of the section's type has, changes nothing at this value."""
    if value is None or key in _KNOWN or key.startswith(PREFIXES):
        return True
    if key in AT_VALUES:
        return any(value == neutral and type(value) in (type(neutral), float) for neutral in AT_VALUES[key])
    return key in _AS_THE_REST and _AS_THE_REST[key](value, section)
