"""The options of `generate`: transformers' names, meanings and defaults.

Enters: keyword arguments, and the manifest with the checkpoint's own defaults. Leaves: frozen `GenerationOptions`, in
which everything is decided. What the caller says counts before what the checkpoint says, and that before what
transformers says; None says nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypedDict

from pumice.errors import UsageError
from pumice.generation.arguments import Arguments
from pumice.generation.idle_arguments import without_idle
from pumice.generation.option_table import OPTIONS, Kind, Option
from pumice.manifest import Manifest
from pumice.manifest.intervals import Interval

GREEDY_TEMPERATURE = 1e-5
"""Below, only the most likely token has a chance, and float32 scores might overflow."""


class GenerationArguments(TypedDict, total=False):
    """What `generate` takes by name; `OPTIONS` say what each means, its interval and its default.

    None everywhere means the default: the checkpoint's, else transformers'. The order and the types are the table's.
    """

    max_new_tokens: int | None
    logit_bias: Mapping[int, float] | Mapping[str, float] | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    no_repeat_ngram_size: int | None
    bad_words_ids: list[list[int]] | None
    min_new_tokens: int | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    xtc_probability: float | None
    xtc_threshold: float | None
    seed: int | None
    num_return_sequences: int | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    eos_token_id: int | list[int] | None
    stop_strings: str | list[str] | None
    logprobs: int | bool | None
    """True: of the chosen tokens only, as 0."""
    json_schema: dict[str, Any] | bool | str | None
    regex: str | None
    prompt_lookup_num_tokens: int | None
    """None drafts where it pays and keeps the answer: float32."""
    continue_final_message: bool | None
    add_generation_prompt: bool | None


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """What `GenerationArguments` say, decided and checked. Options for sampling only apply where `do_sample` is True.

    `json_schema` is JSON text; `logprobs` None reports nothing; `prompt_lookup_num_tokens` None is automatic;
    `logit_bias` are pairs of id and bias.
    """

    max_new_tokens: int
    logit_bias: tuple[tuple[int, float], ...]
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    no_repeat_ngram_size: int
    bad_words_ids: tuple[tuple[int, ...], ...]
    min_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    xtc_probability: float
    xtc_threshold: float
    seed: int | None
    num_return_sequences: int
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    eos_token_id: tuple[int, ...]
    stop_strings: tuple[str, ...]
    logprobs: int | None
    json_schema: str | None
    regex: str | None
    prompt_lookup_num_tokens: int | None
    continue_final_message: bool
    add_generation_prompt: bool | None


NAMES = tuple(option.name for option in OPTIONS)
_DEFAULTS = {option.name: option.default for option in OPTIONS}
_NAMES_ELSEWHERE = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "n": "num_return_sequences",
    "best_of": "num_beams",
    "stop": "stop_strings",
    "top_logprobs": "logprobs",
    "response_format": "json_schema",
}
"""What other libraries, and transformers, call about the same."""


def resolve(arguments: Mapping[str, Any], manifest: Manifest) -> GenerationOptions:
    """Check `arguments`, and fill in the defaults.

    As in transformers, options for sampling do nothing without `do_sample=True`; a warning is logged (logger `pumice`),
    once, but for a seed, which does no harm. Where a default of the checkpoint contradicts what the caller says, it
    yields.

    Raises:
        UsageError: an unknown name, a value of another type or outside its interval, or a contradiction.
    """
    arguments = without_idle(arguments)
    _check_names(arguments)
    given = {name: value for name, value in arguments.items() if value is not None}
    defaults = manifest.generation.given()
    if any(name in given for name in ("json_schema", "regex", "logprobs")):
        defaults.pop("num_beams", None)
    options = _read(Arguments(defaults | given, manifest.decoder.vocab_size), given, manifest)
    _check_together(options)
    if not options.do_sample and options.temperature >= GREEDY_TEMPERATURE:
        _warn_of_idle(
            tuple(
                option.name
                for option in OPTIONS
                if option.sampling
                and option.default is not None  # the seed's
                and given.get(option.name, option.default) != option.default
            )
        )
    return options


def _read(values: Arguments, given: Mapping[str, Any], manifest: Manifest) -> GenerationOptions:
    read = {option.name: _value(values, option) for option in OPTIONS if option.name not in _LENGTHS}
    read |= _lengths(values, given, manifest)
    if read["eos_token_id"] is None:
        read["eos_token_id"] = manifest.tokens.eos_ids
    read["do_sample"] = read["do_sample"] and read["temperature"] >= GREEDY_TEMPERATURE
    return GenerationOptions(**read)


def _value(values: Arguments, option: Option) -> Any:
    """An option's value, checked as its kind asks for; its default where nobody says."""
    name, interval = option.name, option.interval or Interval(low=-math.inf, high=math.inf)
    read: dict[Kind, Callable[[], Any]] = {
        "whole number": lambda: values.whole(name, option.default, interval),
        "number": lambda: values.number(name, option.default, interval),
        "flag": lambda: values.flag(name, option.default),
        "token ids": lambda: values.ids(name, option.default),
        "bad words": values.bad_words,
        "biases": lambda: values.biases(interval),
        "texts": values.stop_strings,
        "early stopping": values.early_stopping,
        "logprobs": lambda: values.logprobs(interval),
        "JSON schema": values.json_schema,
        "regex": values.regex,
    }
    return read[option.kind]()


_LENGTHS = ("max_new_tokens", "min_new_tokens")
"""Whose intervals end at the model's context."""


def _lengths(values: Arguments, given: Mapping[str, Any], manifest: Manifest) -> dict[str, int | None]:
    """Tokens of an answer, at most and at least; defaults give way to the context, and to what the caller says."""
    context = manifest.decoder.context_length
    most: int | None = min(manifest.generation.max_new_tokens or _DEFAULTS["max_new_tokens"], context)
    if "max_new_tokens" in given:
        most = values.whole(
            "max_new_tokens", most, Interval(low=1, high=context, note=" (the model's context)")
        )
    assert most is not None
    least: int | None = min(manifest.generation.min_new_tokens or _DEFAULTS["min_new_tokens"], most)
    if "min_new_tokens" in given:
        least = values.whole("min_new_tokens", least, Interval(low=0, high=most, note=" (max_new_tokens)"))
    return dict(zip(_LENGTHS, (most, least), strict=True))


def _check_names(arguments: Mapping[str, Any]) -> None:
    for name in arguments:
        if name in NAMES:
            continue
        import difflib  # only a mistake needs it

        alike = [known for known in (*NAMES, *_NAMES_ELSEWHERE) if known[:1] == str(name)[:1]]
        close = difflib.get_close_matches(str(name), alike, n=1, cutoff=0.85)
        meant = _NAMES_ELSEWHERE.get(close[0], close[0]) if close else None
        hint = f"did you mean {meant}? The options are" if meant else "expected one of"
        raise UsageError(f"there is no option {name!r}: {hint} {', '.join(NAMES)}")


def _check_together(options: GenerationOptions) -> None:
    """What contradicts each other."""
    beams, sequences = options.num_beams, options.num_return_sequences
    if options.continue_final_message and options.add_generation_prompt:
        raise UsageError(
            "continue_final_message and add_generation_prompt contradict each other: either the last message goes on, "
            "or an answer to it begins"
        )
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
            "%s: without do_sample=True this does nothing, as the most likely token is taken",
            ", ".join(names),
        )
