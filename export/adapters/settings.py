"""What an adapter's `adapter_config.json` says of its merging; whatever cannot be merged is refused by name.

Enters: the parsed file. Leaves: `LoraSettings`, or a `CheckpointError` of one line. Which modules are adapted is not
read here: the adapter's tensors say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from pumice.errors import CheckpointError

_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias",
    "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "trainable_token_indices", "use_dora", "use_rslora",
}  # fmt: skip
"""Keys that are read below, or that only training heeds. Any other key that is set is refused."""
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base's weights alone; pissa and its like take parts out of them."""
_LONGEST_PATTERN = 512
"""Characters."""
_LONGEST_MATCH = 2.0
"""Seconds for one pattern and one name, which take microseconds: `(a+)+b` and its like take for ever."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Rank and alpha of each module, and which kind of LoRA it is. `tokens` has rows of a table that are replaced.

    `base` is what was trained on, by whatever name the trainer had for it.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    root: bool
    dora: bool
    bias: bool
    tokens: Mapping[str, tuple[int, ...]]
    base: Any = None

    def rank_of(self, paths: tuple[str, ...]) -> int:
        """Of a module, by its path in any of the layouts that it may be called by."""
        return self.ranks.get(_key(self.ranks, paths), self.rank)

    def scale_of(self, paths: tuple[str, ...], factor: float) -> float:
        """What the product of a module's two matrices is times, in PEFT's order of operations."""
        rank = self.rank_of(paths)
        alpha = self.alphas.get(_key(self.alphas, paths), self.alpha)
        return factor * alpha / (math.sqrt(rank) if self.root else rank)

    def tokens_of(self, paths: tuple[str, ...]) -> tuple[int, ...]:
        """Rows of a module's table, in the order of their replacements; none where it is not named."""
        return self.tokens.get(_key(self.tokens, paths), ())


def read_settings(where: Path, config: Mapping[str, Any]) -> LoraSettings:
    """What `config` says; `where` is named in errors. Raises CheckpointError."""
    _refuse_others(where, config)
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    for key, patterns in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
        if not isinstance(patterns, dict):
            raise CheckpointError(f"{where}: {key} is a {type(patterns).__name__}, expected an object")
        _check_patterns(where, key, patterns)
    for key, value in [("r", rank), *ranks.items()]:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{where}: the rank {key} is {value!r}, expected a whole number from 1")
    for key, value in [("lora_alpha", alpha), *alphas.items()]:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise CheckpointError(f"{where}: the alpha {key} is {value!r}, expected a finite number")
    return LoraSettings(
        rank=rank,
        alpha=alpha,
        ranks=ranks,
        alphas=alphas,
        root=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        bias=bool(config.get("lora_bias")),
        tokens=_tokens(where, config.get("trainable_token_indices")),
        base=config.get("base_model_name_or_path"),
    )


def _refuse_others(where: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{where} has peft_type {kind!r}: of PEFT's adapters only LORA is merged")
    if config.get("fan_in_fan_out"):
        raise CheckpointError(
            f"{where} says fan_in_fan_out, for matrices that are stored transposed: LLaVA has none, so that this "
            "adapter is of another model"
        )
    for key, value in config.items():
        if value and key not in _HARMLESS:
            raise CheckpointError(
                f"{where} sets {key}, which cannot be merged here: "
                "expected plain LoRA, rsLoRA or DoRA (docs/adapters.md)"
            )
    start = config.get("init_lora_weights", True)
    if start is not None and not isinstance(start, bool) and start not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{where} has init_lora_weights {start!r}, which changes the base's weights before training: save the "
            "adapter converted (PEFT: save_pretrained with path_initial_model_for_weight_conversion)"
        )


def _check_patterns(where: Path, key: str, patterns: Mapping[str, Any]) -> None:
    for pattern in patterns:
        try:
            if len(pattern) > _LONGEST_PATTERN:
                raise CheckpointError(
                    f"{where}: {key} has a pattern of {len(pattern)} characters, expected {_LONGEST_PATTERN} at most"
                )
            regex.compile(_whole(pattern))
        except regex.error as error:
            raise CheckpointError(
                f"{where}: {key} has {pattern!r}, which is no regular expression ({error})"
            ) from None


def _tokens(where: Path, given: Any) -> dict[str, tuple[int, ...]]:
    """Rows by the module's pattern; a list is of the embedding table."""
    by_module = {"embed_tokens": given} if isinstance(given, list) else given or {}
    if not isinstance(by_module, dict) or not all(isinstance(rows, list) for rows in by_module.values()):
        raise CheckpointError(f"{where}: trainable_token_indices is {given!r}, expected lists of token ids")
    _check_patterns(where, "trainable_token_indices", by_module)
    for rows in by_module.values():
        if not all(isinstance(row, int) and not isinstance(row, bool) and row >= 0 for row in rows):
            raise CheckpointError(f"{where}: trainable_token_indices is {rows!r}, expected token ids")
    return {key: tuple(rows) for key, rows in by_module.items()}


def _whole(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _key(patterns: Mapping[str, Any], paths: tuple[str, ...]) -> str:
    """The first pattern that a path matches, as PEFT's `get_pattern_key` has it; the path itself where none does."""
    for path in paths:
        for pattern in patterns:
            try:
                if regex.match(_whole(pattern), path, timeout=_LONGEST_MATCH):
                    return pattern
            except TimeoutError:
                raise CheckpointError(
                    f"the adapter's pattern {pattern!r} takes longer than {_LONGEST_MATCH} s to compare with {path}: "
                    "write it more simply"
                ) from None
    return paths[0]
