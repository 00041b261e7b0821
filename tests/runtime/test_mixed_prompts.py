"""Prompts with 0 to 3 images, 1 to 3 turns and different options give the same tokens alone, as a list, and through
the engine 16 at a time. Oracle: each prompt alone, reusing nothing. Tolerance: tokens equal.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pumice
from pumice.model import Model
from pumice.result import Generation

from .test_generation import image

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"do_sample": True, "temperature": 0.9, "seed": 3},
    {"do_sample": True, "top_p": 0.7, "top_k": 0, "seed": 4},
    {"do_sample": True, "min_p": 0.05, "typical_p": 0.9, "seed": 5, "num_return_sequences": 3},
    {"num_beams": 3},
    {"num_beams": 2, "num_return_sequences": 2, "length_penalty": 0.5},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    {"min_new_tokens": 3, "stop_strings": [" and", "square."]},
    {"prompt_lookup_num_tokens": 6},
    {"regex": "(yes|no|maybe)( [a-z]{1,5}){0,2}"},
)
TEXTS = (
    "What is in this picture?",
    "How many shapes are there?",
    "Where is the circle?",
    "Tell me more, please.",
)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    messages: list[dict[str, Any]]
    images: list[Any]
    options: dict[str, Any]


def prompts(count: int) -> list[Prompt]:
    dice = random.Random(0)
    return [prompt(dice, OPTIONS[i % len(OPTIONS)]) for i in range(count)]


def prompt(dice: random.Random, options: dict[str, Any]) -> Prompt:
    """A conversation whose images are spread over its turns; few images, so that they come again."""
    turns = dice.randint(1, 3)
    images = [image(dice.randrange(6)) for _ in range(dice.randint(0, 3))]
    places = sorted(dice.randrange(turns) for _ in images)
    messages: list[dict[str, Any]] = []
    for turn in range(turns):
        content = [{"type": "image"}] * places.count(turn)
        text = {"type": "text", "text": dice.choice(TEXTS)}
        messages.append({"role": "user", "content": [*content, text]})
        if turn < turns - 1:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": "A red circle."}]})
    return Prompt(
        messages=messages, images=images, options={"max_new_tokens": dice.randint(3, 24), **options}
    )


def tokens(result: Generation | list[Generation]) -> list[list[int]]:
    return [answer.token_ids for answer in (result if isinstance(result, list) else [result])]


@pytest.fixture(scope="module")
def mixed() -> list[Prompt]:
    return prompts(100)


@pytest.fixture(scope="module")
def alone(pebble_bundle: Path, mixed: list[Prompt]) -> list[list[list[int]]]:
    model = pumice.load(pebble_bundle, device="cpu", prefix_cache_bytes=0, feature_cache_bytes=0)
    return [tokens(model.generate(p.messages, p.images, **p.options)) for p in mixed]


@pytest.fixture
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu")


def test_reuse_changes_nothing(model: Model, mixed: list[Prompt], alone: list[list[list[int]]]) -> None:
    for _ in range(2):
        assert [tokens(model.generate(p.messages, p.images, **p.options)) for p in mixed] == alone


def test_lists_equal_single_prompts(model: Model, mixed: list[Prompt], alone: list[list[list[int]]]) -> None:
    """Those of equal options and limits go together."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, p in enumerate(mixed):
        groups[repr({**p.options, "max_new_tokens": 20})].append(i)
    single = pumice.load(model.path, device="cpu", prefix_cache_bytes=0, feature_cache_bytes=0)
    for members in groups.values():
        options = {**mixed[members[0]].options, "max_new_tokens": 20}
        expected = [
            ids
            for i in members
            for ids in tokens(single.generate(mixed[i].messages, mixed[i].images, **options))
        ]
        together = model.generate(
            [mixed[i].messages for i in members], [mixed[i].images for i in members], **options
        )
        assert tokens(together) == expected


def test_the_engine_equals_single_prompts(
    model: Model, mixed: list[Prompt], alone: list[list[list[int]]]
) -> None:
    with pumice.Engine(model, slots=16, max_queue=len(mixed)) as engine:
        futures = [engine.submit(p.messages, p.images, **p.options) for p in mixed]
        assert [tokens(future.result(120)) for future in futures] == alone


def test_the_engine_in_asyncio_equals_single_prompts(
    model: Model, mixed: list[Prompt], alone: list[list[list[int]]]
) -> None:
    async def ask(engine: pumice.Engine) -> list[Generation | list[Generation]]:
        return await asyncio.gather(*(engine.agenerate(p.messages, p.images, **p.options) for p in mixed))

    with pumice.Engine(model, slots=16, max_queue=len(mixed)) as engine:
        assert [tokens(result) for result in asyncio.run(ask(engine))] == alone
