"""Arguments that change nothing. Oracle: transformers, whose names these are."""

from __future__ import annotations

import inspect
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pumice.generation.idle_arguments import IDLE
from pumice.generation.options import NAMES
from tests.runtime.generation.reference import options, refused


class Something:
    """An object of the caller's, with a name that is the same in every process."""

    def __repr__(self) -> str:
        return "something"


SOMETHING = Something()

TAKEN: list[tuple[str, Any]] = [
    ("pad_token_id", 0),
    ("pad_token_id", np.int64(5)),
    ("use_cache", True),
    ("return_dict_in_generate", True),
    ("return_dict_in_generate", False),
    ("generation_config", None),
    ("generation_config", {}),
    ("assistant_model", None),
    ("skip_special_tokens", True),
    ("tokenizer", SOMETHING),
    ("synced_gpus", False),
    ("output_scores", False),
    ("streamer", None),
    ("logits_processor", []),
    ("stopping_criteria", ()),
    ("num_beam_groups", 1),
    ("diversity_penalty", 0.0),
    ("guidance_scale", 1),
    ("renormalize_logits", False),
    ("min_length", 0),
    ("epsilon_cutoff", np.float32(0)),
    ("cache_implementation", "static"),
    ("low_memory", True),
    ("suppress_tokens", []),
    ("max_time", None),
    ("max_length", None),
]
REFUSED: list[tuple[str, Any, str]] = [
    ("use_cache", False, "KV cache"),
    ("use_cache", 1, "expected True"),
    ("assistant_model", SOMETHING, "one model"),
    ("skip_special_tokens", False, "token_ids has them"),
    ("synced_gpus", True, "one device"),
    ("output_scores", True, "logprobs"),
    ("output_attentions", True, "logits only"),
    ("streamer", SOMETHING, "stream"),
    ("logits_processor", [len], "no code"),
    ("stopping_criteria", [len], "stop_strings"),
    ("num_beam_groups", 2, "group"),
    ("renormalize_logits", True, "beams"),
    ("min_length", 5, "min_new_tokens"),
    ("guidance_scale", 1.5, "guidance"),
    ("cache_implementation", "quantized", "keys and values"),
    ("generation_config", 5, "to_dict"),
    ("sequence_bias", {(1,): 2.0}, "logit_bias"),
    ("suppress_tokens", [5], "bad_words_ids"),
    ("max_time", 2.0, "deadline"),
    ("generation_config", {"num_beam_groups": 2}, "group"),
    ("generation_config", {"temprature": 2}, "temperature"),
    ("generation_config", {"max_length": 50}, "max_new_tokens"),
    ("remove_invalid_values", np.True_, "finite"),
]


@pytest.mark.parametrize(("name", "value"), TAKEN, ids=str)
def test_what_changes_nothing_is_taken(name: str, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert options(**{name: value}) == options(**{name: None}) == options()
    assert not caplog.records


@pytest.mark.parametrize(("name", "value", "told"), REFUSED, ids=str)
def test_what_would_change_something_is_refused_and_told_why(name: str, value: Any, told: str) -> None:
    message = refused(**{name: value})
    assert told in message
    assert name in message or name == "generation_config"


def test_a_generation_config_gives_what_is_not_given_beside_it() -> None:
    said = {
        "max_new_tokens": 7,
        "num_beams": 3,
        "top_k": None,
        "pad_token_id": 0,
        "transformers_version": "5.0.0",
    }
    for config in (said, SimpleNamespace(to_dict=lambda: said)):
        assert options(generation_config=config) == options(max_new_tokens=7, num_beams=3)
        assert options(generation_config=config, num_beams=2) == options(max_new_tokens=7, num_beams=2)
    assert said["transformers_version"] == "5.0.0"


@pytest.mark.export_extra
def test_a_generation_config_of_transformers(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import GenerationConfig

    with caplog.at_level(logging.WARNING):
        config = GenerationConfig(max_new_tokens=9, do_sample=True, temperature=0.5, top_k=7)
        given = {"max_new_tokens": 9, "do_sample": True, "temperature": 0.5, "top_k": 7}
        assert options(generation_config=config) == options(**given)
        assert options(generation_config=GenerationConfig()) == options()


@pytest.mark.export_extra
def test_every_argument_of_transformers_is_known() -> None:
    """Those of `generate` and of its config: an option, idle, or refused with a hint."""
    from transformers import GenerationConfig, GenerationMixin

    names = {*inspect.signature(GenerationMixin.generate).parameters, *vars(GenerationConfig())}
    unknown = {name for name in names if not name.startswith("_")} - {*NAMES, *IDLE}
    assert unknown == {"self", "inputs", "kwargs", "generation_config", "transformers_version", "max_length"}
