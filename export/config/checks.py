"""Checks that reading a `config.json` shares: known keys, allowed values, sizes that can be true."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig

from pumice.errors import CheckpointError

AT_MOST = {
    "num_hidden_layers": 1024,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 19,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "head_dim": 1 << 12,
    "vocab_size": 1 << 22,
    "max_position_embeddings": 1 << 21,
    "image_size": 1 << 14,
    "patch_size": 1 << 10,
}
"""Several times what the largest releases have. A size beyond is a damaged file's, and neither transformers nor this
package may make lists or tensors of it before the weights are compared with it."""

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
        "is_composition",
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


def check_ranges(raw: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError where a size is larger than any model's; of a config as it stands in its file."""
    for key, most in AT_MOST.items():
        value = raw.get(key)
        if isinstance(value, int | float) and value > most:
            raise CheckpointError(f"{where}{key} is {value!r}, expected at most {most:,}")


def refuse_other_dtypes(raw: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError where the dtype is none of torch's floats; which one it is, the weights say themselves."""
    for key in ("torch_dtype", "dtype"):
        name = raw.get(key)
        dtype = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else None
        known = name == "auto" or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)
        if name is not None and not known:
            raise CheckpointError(f"{where}{key} is {name!r}, expected a dtype such as float16 or bfloat16")


def one_of(config: Any, key: str, where: str, allowed: Collection[str]) -> Any:
    """The config's value of `key`, if it is among `allowed`; raises CheckpointError."""
    value = getattr(config, key)
    if not isinstance(value, str) or value not in allowed:
        raise CheckpointError(f"{where}{key} is {value!r}; supported: {', '.join(allowed)}")
    return value


def require_positive(config: Any, where: str, *keys: str) -> None:
    """Raise CheckpointError where a size is not a whole number of at least 1."""
    for key in keys:
        value = getattr(config, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{where}{key} is {value!r}, expected a positive integer")


def require_flag(config: Any, where: str, key: str) -> bool:
    """The config's value of `key`, if it is true or false; raises CheckpointError."""
    value = getattr(config, key)
    if not isinstance(value, bool):
        raise CheckpointError(f"{where}{key} is {value!r}, expected true or false")
    return value


def require_epsilon(config: Any, where: str, key: str) -> float:
    """The config's value of `key`, if a norm can add it to a variance; raises CheckpointError."""
    value = getattr(config, key)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:  # NaN is not
        raise CheckpointError(f"{where}{key} is {value!r}, expected a number from 0 to 1")
    return float(value)
