"""Checks that reading a `config.json` shares: known keys, allowed values, positive sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from pumice.errors import CheckpointError

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


def refuse_unknown_keys(
    raw: Mapping[str, Any], kind: type[PreTrainedConfig], where: str, extra: Iterable[str] = ()
) -> None:
    """Raise CheckpointError for keys that `kind` does not have: they may change the computation."""
    known = {
        *kind().to_dict(),
        *kind.attribute_map,
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


def one_of(config: Any, key: str, where: str, allowed: Collection[str]) -> Any:
    """The config's value of `key`, if it is among `allowed`; raises CheckpointError."""
    value = getattr(config, key)
    if value not in allowed:
        raise CheckpointError(f"{where}{key} is {value!r}; supported: {', '.join(allowed)}")
    return value


def require_positive(config: Any, where: str, *keys: str) -> None:
    """Raise CheckpointError where a size is not a whole number of at least 1."""
    for key in keys:
        value = getattr(config, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{where}{key} is {value!r}, expected a positive integer")
