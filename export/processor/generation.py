"""A checkpoint's own defaults of generation: generation_config.json.

Enters: its content. Leaves: the manifest's `GenerationDefaults`. What is out of range is refused; what pumice does not
do is left out with a warning, as the checkpoint can be used without it, only not quite as its makers had in mind.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pumice.errors import CheckpointError
from pumice.manifest import GenerationDefaults

CONFIG_NAME = "generation_config.json"
_NAMES = tuple(GenerationDefaults.__annotations__)

_NEUTRAL: dict[str, Any] = {
    "assistant_ensemble_weight": None,
    "begin_suppress_tokens": None,
    "constraints": None,
    "diversity_penalty": 0,
    "dola_layers": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1,
    "max_time": None,
    "min_length": 0,
    "num_beam_groups": 1,
    "num_return_sequences": 1,  # a caller who asked for one answer would get a list
    "penalty_alpha": 0,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "sequence_bias": None,
    "suppress_tokens": None,
    "token_healing": False,
    "top_h": None,
    "watermarking_config": None,
}
"""What changes answers in transformers and is not done here, with the value at which it changes nothing (or null).

A key that is in none of these lists is warned of, too: nobody knows what it does.
"""

_HARMLESS = (
    "_from_model_config", "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind",
    "bos_token_id", "cache_config", "cache_implementation", "compile_config", "continuous_batching_config",
    "decoder_start_token_id", "disable_compile", "eos_token_id", "is_assistant", "low_memory", "max_cache_len",
    "max_length", "max_matching_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "output_attentions", "output_hidden_states", "output_logits", "output_scores", "pad_token_id",
    "prefill_chunk_size", "prompt_lookup_num_tokens", "return_dict_in_generate", "return_legacy_cache",
    "speculation_type", "target_lookbehind", "transformers_version", "use_cache", "use_mtp",
)  # fmt: skip
"""What changes no answer: ids that are read elsewhere, the cache, what is returned, how assistants guess.

Two may change answers by their value, which `_left_out` knows: a cache that is quantised, and a `max_length` (prompt
included) that no `max_new_tokens` stands before.
"""

_DEFAULT_LENGTH = 20
"""`max_length` of transformers where nobody says: then it is no limit that somebody chose."""


def generation_defaults(content: dict[str, Any], path: Path, vocab_size: int) -> GenerationDefaults:
    """The defaults in the `content` of generation_config.json of the checkpoint at `path`.

    Raises:
        CheckpointError: a value of the wrong type or outside its interval.
    """
    for key in content:
        if _left_out(key, content):
            logging.getLogger("pumice").warning(
                "%s/%s: the generation default %s is left out, which pumice does not have",
                path,
                CONFIG_NAME,
                key,
            )
    known = {name: content[name] for name in _NAMES if content.get(name) is not None}
    if isinstance(known.get("stop_strings"), str):
        known["stop_strings"] = [known["stop_strings"]]
    for name, value in known.items():
        try:
            msgspec.convert({name: value}, GenerationDefaults, strict=True)
        except msgspec.ValidationError as error:
            reason = str(error).split(" - at `")[0]
            raise CheckpointError(
                f"{path}/{CONFIG_NAME}: {name} is {value!r}: {reason[:1].lower()}{reason[1:]}"
            ) from None
    defaults = replace(
        msgspec.convert(known, GenerationDefaults)
    )  # msgspec leaves defaults unset, and unwritten
    highest = max((token for ids in defaults.bad_words_ids or () for token in ids), default=0)
    if highest >= vocab_size:
        raise CheckpointError(
            f"{path}/{CONFIG_NAME}: bad_words_ids has token id {highest}, expected 0 to {vocab_size - 1}"
        )
    return defaults


def _left_out(key: str, content: dict[str, Any]) -> bool:
    """Whether a key may change answers in transformers, and is not done here."""
    value = content[key]
    if value is None or value == [] or key in _NAMES:
        return False
    if key == "cache_implementation":
        return bool(value == "quantized")
    if key == "max_length":
        return content.get("max_new_tokens") is None and value != _DEFAULT_LENGTH
    return key not in _HARMLESS and value != _NEUTRAL.get(key)
