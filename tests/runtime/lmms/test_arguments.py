"""What a task's generation arguments become: transformers' meanings, whatever lmms-eval calls them."""

from __future__ import annotations

from typing import Any

import pytest

from pumice.errors import UsageError
from pumice.lmms.arguments import to_options

POPE = {"max_new_tokens": 128, "temperature": 0, "top_p": 0, "num_beams": 1, "do_sample": False}
PLAIN: dict[str, Any] = {"do_sample": False, "num_beams": 1, "max_new_tokens": 1024, "stop_strings": []}


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, PLAIN),
        (POPE, PLAIN | {"max_new_tokens": 128}),
        ({"until": "\n\n", "do_sample": False}, PLAIN | {"stop_strings": ["\n\n"]}),
        (
            {"until": ["ASSISTANT:", ""], "max_gen_toks": 5},
            PLAIN | {"stop_strings": ["ASSISTANT:"], "max_new_tokens": 5},
        ),
        ({"until": None, "top_p": None, "num_beams": None}, PLAIN),
        ({"num_beams": 3, "length_penalty": 0.5}, PLAIN | {"num_beams": 3, "length_penalty": 0.5}),
        ({"temperature": 0.5, "top_p": 0.9}, PLAIN | {"do_sample": True, "temperature": 0.5, "top_p": 0.9}),
        ({"do_sample": True, "top_k": 5}, PLAIN | {"do_sample": True, "top_k": 5}),
        ({"do_sample": True, "temperature": 0, "top_p": 0.9}, PLAIN),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, PLAIN),
        ({"max_new_tokens": 1_000_000}, PLAIN | {"max_new_tokens": 2048}),
        ({"n": 1, "num_return_sequences": 1}, PLAIN),
    ],
    ids=str,
)
def test_arguments_become_options(given: dict[str, Any], options: dict[str, Any]) -> None:
    assert to_options(given, 2048) == (options, ())


def test_what_says_nothing_to_pumice_is_named() -> None:
    options, idle = to_options({"image_aspect_ratio": "original", "use_cache": True, "seed": 3}, 2048)
    assert idle == ("image_aspect_ratio", "use_cache")
    assert options == PLAIN | {"seed": 3}


@pytest.mark.parametrize("name", ["n", "best_of", "num_return_sequences"])
def test_several_answers_to_one_request_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is 4, expected 1: ask for several answers by --repeats"):
        to_options({name: 4}, 2048)
