"""What follows from the table of options, and the two places that must repeat it: Python's types, and the docs."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from pumice.cli.flags import add_generation_arguments, generation_options
from pumice.generation.logits_processors import is_greedy, make_processor
from pumice.generation.option_table import OPTIONS, Option, table_rows
from pumice.generation.options import GenerationArguments, GenerationOptions
from tests.runtime.generation.reference import options

DOCS = Path(__file__).parents[3] / "docs" / "generation.md"
TAKEN = {
    "whole number": int,
    "number": float,
    "flag": bool,
    "token ids": int | list[int],
    "bad words": list[list[int]],
    "biases": Mapping[int, float] | Mapping[str, float],
    "texts": str | list[str],
    "early stopping": bool | Literal["never"],
    "logprobs": int | bool,
    "JSON schema": dict[str, Any] | bool | str,
    "regex": str,
}
DECIDED = {
    "whole number": int,
    "number": float,
    "flag": bool,
    "token ids": tuple[int, ...],
    "bad words": tuple[tuple[int, ...], ...],
    "biases": tuple[tuple[int, float], ...],
    "texts": tuple[str, ...],
    "early stopping": bool | Literal["never"],
    "logprobs": int | None,
    "JSON schema": str | None,
    "regex": str | None,
}
NUMBERS = [option for option in OPTIONS if option.kind in ("whole number", "number")]
CHANGING = [option for option in OPTIONS if option.edit or option.warper]


def name_of(option: Option) -> str:
    return option.name


def test_types_are_the_tables() -> None:
    taken, decided = typing.get_type_hints(GenerationArguments), typing.get_type_hints(GenerationOptions)
    assert taken == {option.name: TAKEN[option.kind] | None for option in OPTIONS}
    may_be_none = {option.name for option in OPTIONS if option.kind == "flag" and option.default is None}
    may_be_none |= {option.name for option in NUMBERS if option.default is None}
    assert decided == {
        option.name: DECIDED[option.kind] | None if option.name in may_be_none else DECIDED[option.kind]
        for option in OPTIONS
    }


def test_defaults_are_the_tables() -> None:
    for option in OPTIONS:
        default = getattr(options(), option.name)
        assert default == (option.default if option.name != "eos_token_id" else (2,))
        assert type(default) is type(option.default) or option.name == "eos_token_id"


def test_the_docs_have_the_table() -> None:
    lines = DOCS.read_text("utf-8").splitlines()
    begin = lines.index("| option | interval | default | meaning |") + 2
    assert lines[begin : lines.index("", begin)] == table_rows()


@pytest.mark.parametrize("option", NUMBERS, ids=name_of)
def test_numbers_have_an_interval_that_holds_their_default_and_neutral_value(option: Option) -> None:
    if option.interval is None:
        assert option.name in ("max_new_tokens", "min_new_tokens")  # their intervals end at the context
        return
    assert all(value in option.interval for value in (option.default, option.neutral) if value is not None)


@pytest.mark.parametrize("option", CHANGING, ids=name_of)
def test_a_neutral_value_does_nothing(option: Option) -> None:
    logits_V, rng = np.arange(50, dtype=np.float32), np.random.default_rng(0)
    neutral = options(**{"do_sample": True, "top_k": 0, option.name: _neutral(option)})
    assert make_processor(neutral, 2)(np.arange(4), logits_V, rng) is logits_V
    assert rng.random() == np.random.default_rng(0).random()
    assert is_greedy(options(**{option.name: _neutral(option)}))


def _neutral(option: Option) -> Any:
    """As callers give it: they have no tuples of pairs."""
    return {} if option.kind == "biases" else option.neutral


def parsed(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_generation_arguments(parser)
    return generation_options(parser.parse_args(arguments))


def test_flags_follow_from_the_table() -> None:
    assert parsed() == {}
    assert parsed("--stop", "a", "--stop", "b", "--regex", "x") == {"stop_strings": ["a", "b"], "regex": "x"}
    assert parsed("--max-new-tokens", "3", "--repetition-penalty", "2") == {
        "max_new_tokens": 3,
        "repetition_penalty": 2.0,
    }
    assert parsed("--do-sample", "--temperature", "0") == {"do_sample": True, "temperature": 0}


@pytest.mark.parametrize("option", [option for option in NUMBERS if option.flag], ids=name_of)
def test_a_flag_for_sampling_asks_for_it(option: Option) -> None:
    flag = "--" + option.name.replace("_", "-")
    assert parsed(flag, "1").get("do_sample", False) is option.sampling
    if option.name != "temperature":
        assert "do_sample" not in parsed(flag, "1", "--temperature", "0")
    parser = argparse.ArgumentParser()
    add_generation_arguments(parser)
    assert flag in parser.format_help()
