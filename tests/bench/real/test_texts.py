from __future__ import annotations

import json
from itertools import combinations

import pytest

from bench.real.texts import texts
from bench.real.windows import CONTEXT, POSITIONS
from pumice.export.calibration.tokens import SAMPLE

TEXTS = texts()
SHARED_WORDS = 8


def test_texts_are_the_same_every_time() -> None:
    assert texts() == TEXTS
    assert list(TEXTS) == ["prose", "languages", "code", "json", "licence", "manual"]


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_are_long_enough(kind: str) -> None:
    """By characters: SmolLM2's tokens are shorter than 4.5 of them in any of these, and foreign ones than 2."""
    per_token = 2 if kind == "languages" else 4.2
    assert len(TEXTS[kind]) > per_token * (CONTEXT + POSITIONS)


@pytest.mark.parametrize(("one", "other"), list(combinations(TEXTS, 2)))
def test_texts_share_no_sentences(one: str, other: str) -> None:
    assert not shared(TEXTS[one], TEXTS[other])


@pytest.mark.parametrize("kind", TEXTS)
def test_no_recipe_is_calibrated_on_them(kind: str) -> None:
    assert not shared(TEXTS[kind], SAMPLE.read_text(encoding="utf-8"))


def test_what_is_shared_is_found() -> None:
    """The tests above can fail."""
    assert shared(
        "it was said that one two three four five six seven eight", "One two three four five six seven\neight"
    )


def shared(one: str, other: str) -> set[tuple[str, ...]]:
    """Runs of words that both have."""
    runs = [
        set(zip(*(text.lower().split()[start:] for start in range(SHARED_WORDS)), strict=False))
        for text in (one, other)
    ]
    return runs[0] & runs[1]


def test_eight_languages_and_seven_sorts_of_prose() -> None:
    assert len(TEXTS["languages"].split("\n\n")) == 8
    assert TEXTS["prose"].count("* * *") == 6


def test_json_is_json() -> None:
    assert {"status": 404, "name": "NOT_FOUND"}.items() <= next(
        code.items() for code in json.loads(TEXTS["json"])["codes"] if code["status"] == 404
    )
