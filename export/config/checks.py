"""Checks that reading a `config.json` shares: known keys, allowed values, sizes that can be true."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig

from pumice.errors import CheckpointError
from pumice.export.config.harmless import is_harmless

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

_ROOM = 1200
"""Characters of one message for unknown keys; how many more there are is said."""


def unknown_keys(
    raw: Mapping[str, Any],
    kind: type[PreTrainedConfig],
    where: str,
    *,
    extra: Iterable[str] = (),
    repeated: Iterable[Mapping[str, Any]] = (),
) -> list[str]:
    """Keys that `kind` does not have and that may change the computation, each behind its value.

    `extra` are known beside the fields of `kind`. What one of `repeated` has with the same value is
    said already.
    """
    known = {
        *kind().to_dict(),
        *kind.attribute_map,
        *PreTrainedConfig().to_dict(),
        *GenerationConfig().to_dict(),
        *extra,
    }
    parts = list(repeated)
    return [
        f"{_shown(_json(value), 60)} for {where}{_shown(key, 80)}"
        for key, value in sorted(raw.items())
        if key not in known
        and not is_harmless(key, value, raw)
        and not any(key in part and part[key] == value for part in parts)
    ]


def refuse_keys(unknown: Sequence[str]) -> None:
    """Raise CheckpointError with all of them, if there are any."""
    if not unknown:
        return
    count = sum(length <= _ROOM for length in accumulate(len(key) + 2 for key in unknown))
    said = ", ".join(unknown[:count]) + (f" and {len(unknown) - count} more" if count < len(unknown) else "")
    raise CheckpointError(
        f"config.json has {said}, which this pumice does not know and which may change the result: "
        "remove what changes nothing"
    )


def filled(raw: Mapping[str, Any], kind: type[PreTrainedConfig]) -> dict[str, Any]:
    """A section with the defaults of what it leaves out, and `rope_theta` under its older name too."""
    content = {**kind().to_dict(), **raw}
    rotary = content.get("rope_parameters")
    theta = rotary.get("rope_theta") if isinstance(rotary, Mapping) else None
    return content if theta is None else {"rope_theta": theta, **content}


def _json(value: object) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "…"


def _shown(text: str, limit: int) -> str:
    """In one line, and cut."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * limit])
    return plain if len(text) <= limit else f"{plain[: limit - 1]}…"


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


def require_factor(config: Any, where: str, *keys: str) -> None:
    """Numbers that values are multiplied with, or divided by; raises CheckpointError."""
    for key in keys:
        value = getattr(config, key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 1e-6 <= value <= 1e6:  # NaN is not
            raise CheckpointError(f"{where}{key} is {value!r}, expected a number from 0.000001 to 1,000,000")
