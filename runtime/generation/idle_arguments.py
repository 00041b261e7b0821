"""Arguments of transformers' `generate` that change nothing here, with the values for which that is so.

Enters: arguments as callers give them. Leaves: those that are options, a `generation_config` taken apart; what would
change something that pumice does not do is refused, and told why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pumice.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class IdleArgument:
    """One argument; None always changes nothing.

    Args:
        values: what changes nothing; None: whatever it is.
        why: what another value would be told.
    """

    values: tuple[Any, ...] | None = None
    why: str = ""


_ANY = IdleArgument()
_NO_SCORES = IdleArgument(values=(False,), why="logprobs gives log-probabilities of tokens")
_NO_INSIDES = IdleArgument(values=(False,), why="the graphs of a bundle give logits only")
_NO_CODE = IdleArgument(values=([],), why="no code of a caller runs while tokens are chosen")
_NO_GROUPS = "beams are searched in one group"
_NO_ENCODER = "the text model has no encoder"
_ONE_MODEL = "a bundle is one model, and drafts come from prompt_lookup_num_tokens"

IDLE: dict[str, IdleArgument] = {
    "assistant_confidence_threshold": _ANY,
    "assistant_early_exit": IdleArgument(values=(), why=_ONE_MODEL),
    "assistant_ensemble_weight": IdleArgument(values=(), why=_ONE_MODEL),
    "assistant_lookbehind": _ANY,
    "assistant_model": IdleArgument(values=(), why=_ONE_MODEL),
    "assistant_tokenizer": IdleArgument(values=(), why=_ONE_MODEL),
    "begin_suppress_tokens": IdleArgument(values=([],), why="bad_words_ids and logit_bias forbid tokens"),
    "bos_token_id": _ANY,  # the prompt's template and tokenizer write it
    "cache_config": _ANY,
    "cache_implementation": IdleArgument(
        values=("dynamic", "static", "hybrid", "sliding_window", "offloaded", "offloaded_static"),
        why="keys and values are kept as the bundle has them",
    ),
    "clean_up_tokenization_spaces": IdleArgument(values=(False,), why="text is what the tokens say"),
    "compile_config": _ANY,
    "constraints": IdleArgument(values=([],), why="json_schema and regex constrain answers"),
    "continuous_batching_config": _ANY,
    "custom_generate": IdleArgument(values=(), why="no code of a caller runs while tokens are chosen"),
    "decoder_start_token_id": _ANY,
    "disable_compile": _ANY,
    "diversity_penalty": IdleArgument(values=(0,), why=_NO_GROUPS),
    "dola_layers": IdleArgument(values=(), why="a bundle gives the last layer's logits only"),
    "encoder_no_repeat_ngram_size": IdleArgument(values=(0,), why=_NO_ENCODER),
    "encoder_repetition_penalty": IdleArgument(values=(1,), why=_NO_ENCODER),
    "epsilon_cutoff": IdleArgument(values=(0,), why="min_p leaves unlikely tokens out"),
    "eta_cutoff": IdleArgument(values=(0,), why="min_p leaves unlikely tokens out"),
    "exponential_decay_length_penalty": IdleArgument(values=(), why="length_penalty is for beams"),
    "force_words_ids": IdleArgument(values=([],), why="json_schema and regex constrain answers"),
    "forced_bos_token_id": IdleArgument(values=(), why="regex constrains how an answer begins"),
    "forced_eos_token_id": IdleArgument(values=(), why="an answer at its limit just ends"),
    "guidance_scale": IdleArgument(values=(1,), why="there is no classifier-free guidance"),
    "is_assistant": IdleArgument(values=(False,), why=_ONE_MODEL),
    "logits_processor": _NO_CODE,
    "low_memory": _ANY,
    "max_cache_len": _ANY,
    "max_matching_ngram_size": _ANY,
    "max_time": IdleArgument(values=(), why="an Engine's requests have a deadline"),
    "min_length": IdleArgument(
        values=(0,), why="it counts the prompt: min_new_tokens counts the answer only"
    ),
    "negative_prompt_attention_mask": IdleArgument(values=(), why="there is no classifier-free guidance"),
    "negative_prompt_ids": IdleArgument(values=(), why="there is no classifier-free guidance"),
    "num_assistant_tokens": _ANY,
    "num_assistant_tokens_schedule": _ANY,
    "num_beam_groups": IdleArgument(values=(1,), why=_NO_GROUPS),
    "output_attentions": _NO_INSIDES,
    "output_hidden_states": _NO_INSIDES,
    "output_logits": _NO_SCORES,
    "output_scores": _NO_SCORES,
    "pad_token_id": _ANY,  # nothing of an answer is padded
    "penalty_alpha": IdleArgument(values=(0,), why="there is no contrastive search"),
    "prefill_chunk_size": _ANY,
    "prefix_allowed_tokens_fn": IdleArgument(values=(), why="json_schema and regex constrain answers"),
    "remove_invalid_values": IdleArgument(
        values=(False,), why="logits that are not finite raise GenerationError"
    ),
    "renormalize_logits": IdleArgument(values=(False,), why="beams compare scores as the options leave them"),
    "return_dict_in_generate": IdleArgument(
        values=(True, False), why="an answer is a Generation in any case"
    ),
    "sequence_bias": IdleArgument(values=([],), why="logit_bias adds to scores by token id"),
    "skip_special_tokens": IdleArgument(values=(True,), why="text has no special tokens: token_ids has them"),
    "speculation_type": IdleArgument(values=(), why=_ONE_MODEL),
    "stopping_criteria": IdleArgument(values=([],), why="stop_strings and eos_token_id end answers"),
    "streamer": IdleArgument(values=(), why="model.stream gives text in pieces"),
    "suppress_tokens": IdleArgument(values=([],), why="bad_words_ids and logit_bias forbid tokens"),
    "synced_gpus": IdleArgument(values=(False,), why="a model is on one device"),
    "target_lookbehind": _ANY,
    "token_healing": IdleArgument(values=(False,), why="a prompt's tokens stay as they are"),
    "tokenizer": _ANY,  # the bundle has its own
    "top_h": IdleArgument(values=(), why="top_p and min_p leave unlikely tokens out"),
    "use_cache": IdleArgument(values=(True,), why="there is no decoding without a KV cache"),
    "use_mtp": IdleArgument(values=(False,), why=_ONE_MODEL),
    "watermarking_config": IdleArgument(values=(), why="there are no watermarks"),
}
"""By name. Those of `_ANY` are about how transformers computes, or about what pumice takes from the bundle."""

_ABOUT_THE_FILE = ("transformers_version", "_from_model_config", "_commit_hash", "generation_kwargs")
_DEFAULT_LENGTH = 20
"""`max_length` of transformers where nobody says."""


def without_idle(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are left, with those of a `generation_config` that are not given beside it.

    Raises:
        UsageError: an argument with a value that would change something, and that pumice does not do.
    """
    given = dict(arguments)
    config = given.pop("generation_config", None)
    if config is not None:
        given = {**_of_config(config), **given}
    return {name: value for name, value in given.items() if not _is_idle(name, value)}


def _of_config(config: Any) -> dict[str, Any]:
    """What a mapping, or an object such as transformers' `GenerationConfig`, says."""
    values = config if isinstance(config, Mapping) else _as_dict(config)
    if not isinstance(values, Mapping):
        raise UsageError(
            f"generation_config is a {type(config).__name__}, expected a mapping of options by name, or an object "
            "with to_dict()"
        )
    said = {
        name: value for name, value in values.items() if value is not None and name not in _ABOUT_THE_FILE
    }
    if (
        said.get("max_length") == _DEFAULT_LENGTH or "max_new_tokens" in said
    ):  # which comes first in transformers
        said.pop("max_length", None)
    return said


def _as_dict(config: Any) -> Any:
    to_dict = getattr(config, "to_dict", None)
    return to_dict() if callable(to_dict) and not isinstance(config, type) else None


def _is_idle(name: str, value: Any) -> bool:
    argument = IDLE.get(name)
    if argument is None:
        return name == "max_length" and value is None  # with a value, it is told what to use
    if value is None or argument.values is None or any(_same(value, one) for one in argument.values):
        return True
    expected = ", ".join(map(repr, argument.values)) or "None"
    raise UsageError(f"{name} is {_shown(value)}, expected {expected} or nothing: {argument.why}")


def _same(value: Any, other: Any) -> bool:
    """Equal and of one kind: 1 is no True."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(other, Sequence) and not isinstance(other, str):
        return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 0
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    return isinstance(value, (int, float, str)) and value == other


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # a caller's own object
        return f"of type {type(value).__name__}"
    return text if len(text) <= 100 else f"a {type(value).__name__}"
