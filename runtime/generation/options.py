"""The options of `generate`: transformers' names, meanings and defaults.

Enters: keyword arguments, and the manifest with the checkpoint's own defaults. Leaves: frozen `GenerationOptions`, in
which everything is decided. What the caller says counts before what the checkpoint says, and that before what
transformers says; None says nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypedDict

from pumice.errors import UsageError
from pumice.generation.arguments import Arguments
from pumice.manifest import Manifest
from pumice.manifest.intervals import Interval

DEFAULT_MAX_NEW_TOKENS = 256
"""Where neither the caller nor the checkpoint's generation defaults say."""
DEFAULT_TOP_K = 50
"""transformers', where it samples."""
GREEDY_TEMPERATURE = 1e-5
"""Below, only the likeliest token has a chance, and float32 scores might overflow."""


class GenerationArguments(TypedDict, total=False):
    """What `generate` takes by name. None everywhere means the default: the checkpoint's, else transformers'."""

    max_new_tokens: int | None
    """1 to the model's context (default 256)."""
    min_new_tokens: int | None
    """0 to `max_new_tokens`: no end token comes before so many tokens."""
    do_sample: bool | None
    """Draw tokens; else take the likeliest, and the five options below do nothing."""
    temperature: float | None
    """0 to 100: scores are divided by it. 0 takes the likeliest token, as if `do_sample` were False."""
    top_k: int | None
    """0 (off) to 1,000,000 (default 50): draw from so many likeliest tokens."""
    top_p: float | None
    """0 to 1 (off): draw from the fewest likeliest tokens that have this probability together."""
    min_p: float | None
    """0 (off) to 1: draw from tokens that are so many times as likely as the likeliest."""
    typical_p: float | None
    """Above 0 to 1 (off): draw from the tokens nearest to the expected surprise, of this probability together."""
    repetition_penalty: float | None
    """0.01 to 100 (1: off): tokens of prompt and answer become less likely above 1."""
    no_repeat_ngram_size: int | None
    """0 (off) to 1,000: so many tokens in a row never come twice, in prompt and answer together."""
    bad_words_ids: list[list[int]] | None
    """Sequences of token ids that the answer never has."""
    logit_bias: Mapping[int, float] | Mapping[str, float] | None
    """By token id, what is added to its score before all else, −10,000 to 10,000."""
    eos_token_id: int | list[int] | None
    """Tokens that end the answer; an empty list: none does."""
    stop_strings: str | list[str] | None
    """Texts that end the answer; they are not part of its text."""
    num_return_sequences: int | None
    """1 to 64 answers to one prompt."""
    num_beams: int | None
    """1 (no beam search) to 64."""
    length_penalty: float | None
    """-5 to 5 (default 1): above 0 beam search prefers long answers, below 0 short ones."""
    early_stopping: bool | Literal["never"] | None
    """When beam search ends: as soon as `num_beams` answers have ended, by a guess (False), or "never" too early."""
    seed: int | None
    """0 to 2**64 − 1: draws the same tokens each time."""
    logprobs: int | bool | None
    """Report log-probabilities, of 0 to 20 likeliest tokens beside the chosen one's (True: 0)."""
    json_schema: dict[str, Any] | bool | str | None
    """The answer is JSON of this schema."""
    regex: str | None
    """The answer matches this regular expression from beginning to end."""
    prompt_lookup_num_tokens: int | None
    """0 (off) to 64 tokens drafted from prompt and answer. None drafts where it pays and keeps the answer: float32."""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """What `GenerationArguments` say, decided and checked. Where `do_sample` is False, warpers do not apply.

    `json_schema` is JSON text; `logprobs` None reports nothing; `prompt_lookup_num_tokens` None is automatic;
    `logit_bias` are pairs of id and bias.
    """

    max_new_tokens: int
    min_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    bad_words_ids: tuple[tuple[int, ...], ...]
    logit_bias: tuple[tuple[int, float], ...]
    eos_token_id: tuple[int, ...]
    stop_strings: tuple[str, ...]
    num_return_sequences: int
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    seed: int | None
    logprobs: int | None
    json_schema: str | None
    regex: str | None
    prompt_lookup_num_tokens: int | None


NAMES = tuple(GenerationArguments.__annotations__)
_NAMES_ELSEWHERE = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "min_length": "min_new_tokens",
    "n": "num_return_sequences",
    "best_of": "num_beams",
    "stop": "stop_strings",
    "top_logprobs": "logprobs",
    "output_scores": "logprobs",
    "output_logits": "logprobs",
    "sequence_bias": "logit_bias",
    "suppress_tokens": "bad_words_ids",
    "response_format": "json_schema",
}
"""What other libraries, and transformers, call about the same."""
_WARPERS = {"temperature": 1, "top_k": DEFAULT_TOP_K, "top_p": 1, "min_p": 0, "typical_p": 1}
"""Options that do nothing without do_sample, and their neutral values."""


def resolve(arguments: Mapping[str, Any], manifest: Manifest) -> GenerationOptions:
    """Check `arguments`, and fill in the defaults.

    As in transformers, temperature, top_k, top_p, min_p and typical_p do nothing without `do_sample=True`; a warning is
    logged (logger `pumice`), once. Where a default of the checkpoint contradicts what the caller says, it yields.

    Raises:
        UsageError: an unknown name, a value of another type or outside its interval, or a contradiction.
    """
    _check_names(arguments)
    given = {name: value for name, value in arguments.items() if value is not None}
    defaults = manifest.generation.given()
    if any(name in given for name in ("json_schema", "regex", "logprobs")):
        defaults.pop("num_beams", None)
    options = _read(Arguments(defaults | given, manifest.decoder.vocab_size), given, manifest)
    _check_together(options)
    if not options.do_sample and options.temperature >= GREEDY_TEMPERATURE:
        _warn_of_idle(
            tuple(name for name, neutral in _WARPERS.items() if given.get(name, neutral) != neutral)
        )
    return options


def _read(values: Arguments, given: Mapping[str, Any], manifest: Manifest) -> GenerationOptions:
    most, least = _lengths(values, given, manifest)
    temperature = values.number("temperature", 1.0)
    return GenerationOptions(
        max_new_tokens=most,
        min_new_tokens=least,
        do_sample=values.flag("do_sample") and temperature >= GREEDY_TEMPERATURE,
        temperature=temperature,
        top_k=values.count("top_k", DEFAULT_TOP_K),
        top_p=values.number("top_p", 1.0),
        min_p=values.number("min_p", 0.0),
        typical_p=values.number("typical_p", 1.0),
        repetition_penalty=values.number("repetition_penalty", 1.0),
        no_repeat_ngram_size=values.count("no_repeat_ngram_size", 0),
        bad_words_ids=values.bad_words(),
        logit_bias=values.biases(),
        eos_token_id=values.ids("eos_token_id", manifest.tokens.eos_ids),
        stop_strings=values.stop_strings(),
        num_return_sequences=values.count("num_return_sequences", 1),
        num_beams=values.count("num_beams", 1),
        length_penalty=values.number("length_penalty", 1.0),
        early_stopping=values.early_stopping(),
        seed=values.whole("seed"),
        logprobs=values.logprobs(),
        json_schema=values.json_schema(),
        regex=values.regex(),
        prompt_lookup_num_tokens=values.whole("prompt_lookup_num_tokens"),
    )


def _lengths(values: Arguments, given: Mapping[str, Any], manifest: Manifest) -> tuple[int, int]:
    """Tokens of an answer, at most and at least; defaults give way to the context, and to what the caller says."""
    context = manifest.decoder.context_length
    most = min(manifest.generation.max_new_tokens or DEFAULT_MAX_NEW_TOKENS, context)
    if "max_new_tokens" in given:
        most = values.count(
            "max_new_tokens", most, Interval(low=1, high=context, note=" (the model's context)")
        )
    least = min(manifest.generation.min_new_tokens or 0, most)
    if "min_new_tokens" in given:
        least = values.count("min_new_tokens", least, Interval(low=0, high=most, note=" (max_new_tokens)"))
    return most, least


def _check_names(arguments: Mapping[str, Any]) -> None:
    for name in arguments:
        if name in NAMES:
            continue
        import difflib  # only a mistake needs it

        close = difflib.get_close_matches(str(name), NAMES, n=1)
        meant = _NAMES_ELSEWHERE.get(name) or (close[0] if close else None)
        hint = f"did you mean {meant}? The options are" if meant else "expected one of"
        raise UsageError(f"there is no option {name!r}: {hint} {', '.join(NAMES)}")


def _check_together(options: GenerationOptions) -> None:
    """What contradicts each other."""
    beams, sequences = options.num_beams, options.num_return_sequences
    if options.json_schema is not None and options.regex is not None:
        raise UsageError("got both json_schema and regex, expected one of them: leave one out")
    if beams > 1:
        for name in ("json_schema", "regex", "logprobs"):
            if getattr(options, name) is not None:
                raise UsageError(f"got {name} with num_beams {beams}, expected num_beams 1: leave one out")
        if sequences > beams:
            raise UsageError(
                f"num_return_sequences is {sequences}, expected 1 to {beams} (num_beams): more beams give more answers"
            )
    elif sequences > 1 and not options.do_sample:
        raise UsageError(
            f"num_return_sequences is {sequences}, expected 1, as all greedy answers are the same: "
            "set do_sample=True with a temperature above 0, or num_beams"
        )


@lru_cache(maxsize=64)
def _warn_of_idle(names: tuple[str, ...]) -> None:
    """Once for the same names: an engine resolves the same options thousands of times."""
    if names:
        logging.getLogger("pumice").warning(
            "%s: without do_sample=True this does nothing, as the likeliest token is taken", ", ".join(names)
        )
