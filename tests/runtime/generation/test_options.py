"""What options are accepted, what becomes of them, and what is said about those that are refused."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

import numpy as np
import pytest

from pumice.generation.option_table import OPTIONS
from pumice.generation.options import (
    NAMES,
    GenerationArguments,
    GenerationOptions,
    _warn_of_idle,
    resolve,
)
from pumice.manifest import GenerationDefaults, decode_manifest, encode_manifest
from pumice.manifest.intervals import INTERVALS
from tests.runtime.generation.reference import CONTEXT, EXAMPLE, manifest, options, refused


@pytest.mark.export_extra
def test_defaults_are_transformers() -> None:
    from transformers import GenerationConfig

    theirs = GenerationConfig._get_default_generation_params()
    got = dataclasses.asdict(options())
    same = set(got) & set(theirs) - {"bad_words_ids"}
    assert same >= {"do_sample", "temperature", "top_k", "top_p", "num_beams", "early_stopping"}
    assert {name: got[name] for name in same} == {name: theirs[name] for name in same}
    assert got["max_new_tokens"] == 256
    assert got["min_p"] == 0
    assert got["eos_token_id"] == (2,)
    assert got["bad_words_ids"] == got["logit_bias"] == got["stop_strings"] == ()
    nothing = ("seed", "logprobs", "json_schema", "regex", "prompt_lookup_num_tokens")
    assert all(got[name] is None for name in nothing)


def test_arguments_and_options_have_the_same_names() -> None:
    fields = tuple(field.name for field in dataclasses.fields(GenerationOptions))
    assert tuple(GenerationArguments.__annotations__) == fields == NAMES


def test_none_is_the_default() -> None:
    assert options(**dict.fromkeys(NAMES)) == options()


def test_options_can_be_keys() -> None:
    assert len({options(logit_bias={"1": 2}), options(logit_bias={1: 2.0}), options()}) == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temprature", "temperature"),
        ("max_token", "max_new_tokens"),
        ("max_tokens", "max_new_tokens"),
        ("max_length", "max_new_tokens"),
        ("stop", "stop_strings"),
        ("n", "num_return_sequences"),
        ("num_beam", "num_beams"),
    ],
)
def test_unknown_names_get_a_suggestion_and_the_list(name: str, meant: str) -> None:
    message = refused(**{name: 1})
    assert f"no option {name!r}" in message
    assert f"did you mean {meant}?" in message
    assert all(known in message for known in NAMES)
    assert "did you mean" not in refused(zzzzzz=1)


@pytest.mark.parametrize("name", ["sep_token_id", "best", "use_cach", "unknown_token_id", "strip", "lengths"])
def test_only_near_spellings_are_suggested(name: str) -> None:
    assert "did you mean" not in refused(**{name: 1})


WHOLE = {
    option.name: (option.interval.low, option.interval.high)
    for option in OPTIONS
    if option.interval and option.kind in ("whole number", "logprobs")
}
WHOLE |= {"max_new_tokens": (1, CONTEXT), "min_new_tokens": (0, 256)}
REAL = {option.name: option.interval for option in OPTIONS if option.interval and option.kind == "number"}
OF_NO_NUMBER = ["1", [1], {}, b"1", object(), 1 + 2j, float("nan"), np.float32("nan"), np.zeros(1)]


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_outside_their_interval(name: str) -> None:
    low, high = WHOLE[name]
    values = [low - 1, high + 1, 10**400, -(10**5000), 1.0, np.float32(2), *OF_NO_NUMBER]
    values += [] if name == "logprobs" else [True, False, np.True_]
    for value in values:
        message = refused(**{name: value})
        assert f"{name} is " in message
        assert f"expected {low} to {high}" in message


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("kind", [int, np.int64, np.uint64])
def test_whole_numbers_at_the_ends(name: str, kind: type) -> None:
    beside: dict[str, Any] = {"do_sample": True} if name == "num_return_sequences" else {}
    for end in WHOLE[name]:
        if kind is np.int64 and end > 2**63:
            continue
        value = getattr(options(**beside, **{name: kind(end)}), name)
        assert value == end
        assert type(value) is int


@pytest.mark.parametrize("name", REAL)
def test_numbers_outside_their_interval(name: str) -> None:
    interval = REAL[name]
    outside = [
        np.nextafter(interval.low, -np.inf),
        np.nextafter(interval.high, np.inf),
        np.inf,
        -np.inf,
        10**400,
    ]
    outside += [interval.low] if interval.above else []
    for value in [*outside, True, np.False_, *OF_NO_NUMBER]:
        message = refused(do_sample=True, **{name: value})
        assert f"{name} is " in message
        assert f"expected {interval}" in message


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("kind", [float, np.float64, np.float32, int])
def test_numbers_in_their_interval(name: str, kind: type) -> None:
    given = kind(1 if 1 in REAL[name] else 0)
    value = getattr(options(do_sample=True, **{name: given}), name)
    assert value == given
    assert type(value) is float


@pytest.mark.parametrize("value", [0, 1, "True", [True]])
def test_flags(value: Any) -> None:
    assert "do_sample is" in refused(do_sample=value)
    assert "expected True, False or" in refused(early_stopping=value)
    assert options(do_sample=np.True_).do_sample is True
    assert options(early_stopping="never").early_stopping == "never"


def test_temperature_0_is_greedy() -> None:
    assert options(do_sample=True, temperature=0).do_sample is False
    assert options(do_sample=True, temperature=1e-30).do_sample is False
    assert options(do_sample=True, temperature=1e-3).do_sample is True


def test_logprobs() -> None:
    assert options(logprobs=True).logprobs == options(logprobs=0).logprobs == 0
    assert options(logprobs=False).logprobs is None
    assert options(logprobs=20).logprobs == 20


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"max_new_tokens": 5, "min_new_tokens": 6}, "min_new_tokens is 6, expected 0 to 5 (max_new_tokens)"),
        ({"num_return_sequences": 2}, "all greedy answers are the same"),
        ({"num_return_sequences": 2, "do_sample": True, "temperature": 0}, "a temperature above 0"),
        ({"num_return_sequences": 4, "num_beams": 3}, "expected 1 to 3 (num_beams)"),
        ({"json_schema": {}, "regex": "a"}, "both json_schema and regex"),
        ({"json_schema": {}, "num_beams": 2}, "json_schema with num_beams 2"),
        ({"regex": "a", "num_beams": 2}, "regex with num_beams 2"),
        ({"logprobs": 0, "num_beams": 2}, "logprobs with num_beams 2"),
    ],
)
def test_contradictions(arguments: dict[str, Any], told: str) -> None:
    assert told in refused(**arguments)


def test_what_goes_together() -> None:
    assert options(num_return_sequences=3, num_beams=3).num_return_sequences == 3
    assert options(num_return_sequences=9, do_sample=True).num_return_sequences == 9
    assert options(max_new_tokens=5, min_new_tokens=5).min_new_tokens == 5


def test_limits_name_the_context() -> None:
    assert f"expected 1 to {CONTEXT} (the model's context)" in refused(max_new_tokens=CONTEXT + 1)
    assert resolve({}, manifest(context=100)).max_new_tokens == 100
    assert resolve({}, manifest(context=100, max_new_tokens=300)).max_new_tokens == 100
    assert resolve({}, manifest(max_new_tokens=300)).max_new_tokens == 300


def test_sampling_settings_without_do_sample_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_idle.cache_clear()
    with caplog.at_level(logging.WARNING, "pumice"):
        for _ in range(3):
            assert options(temperature=0.5, top_p=0.9, top_k=50, min_p=0.0).do_sample is False
        assert [record.getMessage().split(":")[0] for record in caplog.records] == ["temperature, top_p"]
        caplog.clear()
        options(temperature=0, top_p=0.2)  # which says greedy
        options(temperature=0.3, do_sample=True)
        options(temperature=1.0, seed=3)
        resolve({}, manifest(temperature=0.7))
        assert not caplog.records


DEFAULTS: dict[str, Any] = {
    "max_new_tokens": 77, "min_new_tokens": 3, "do_sample": True, "temperature": 0.6, "top_k": 9, "top_p": 0.7,
    "min_p": 0.01, "typical_p": 0.8, "repetition_penalty": 1.1, "no_repeat_ngram_size": 4,
    "bad_words_ids": ((4, 5),), "stop_strings": ("x",), "num_beams": 2, "length_penalty": 0.5, "early_stopping": True,
}  # fmt: skip


def test_the_checkpoints_defaults_come_second() -> None:
    assert set(DEFAULTS) == {field.name for field in dataclasses.fields(GenerationDefaults)}
    own = manifest(**DEFAULTS)
    plain, got = dataclasses.asdict(options()), dataclasses.asdict(resolve({}, own))
    assert got == plain | DEFAULTS
    for name in DEFAULTS:  # each can be set back
        value = plain[name] if name not in ("bad_words_ids", "stop_strings") else []
        assert getattr(resolve({name: value}, own), name) == plain[name]


def test_the_checkpoints_defaults_give_way() -> None:
    assert resolve({"max_new_tokens": 2}, manifest(**DEFAULTS)).min_new_tokens == 2
    for arguments in ({"json_schema": {}}, {"regex": "a"}, {"logprobs": 1}):
        assert resolve(arguments, manifest(**DEFAULTS)).num_beams == 1


@pytest.mark.parametrize("name", sorted(INTERVALS))
def test_defaults_and_arguments_have_the_same_intervals(name: str) -> None:
    interval = INTERVALS[name]
    for value in (interval.low - 1, interval.high + 1):
        with pytest.raises(ValueError, match=f"expected {interval} for {name}"):
            GenerationDefaults(**{name: value})
        assert f"expected {interval}" in refused(**{name: value})
    GenerationDefaults(**{name: interval.high})


def test_manifests_keep_defaults_and_older_ones_have_none() -> None:
    own = manifest(**DEFAULTS)
    assert decode_manifest(encode_manifest(own), "here") == own
    older = json.loads(EXAMPLE.read_bytes())
    older["generation"] = {"max_new_tokens": 5}
    read = decode_manifest(json.dumps(older).encode(), "older").generation
    assert read == GenerationDefaults(max_new_tokens=5)
    assert read.given() == {"max_new_tokens": 5}
