"""`frequency_penalty` and `presence_penalty`. Oracle: OpenAI's formula, token by token, in float64. Tolerance: 1e-5."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pumice.generation.logits_processors import is_greedy, make_processor
from tests.runtime.generation.beam_driving import drive, search
from tests.runtime.generation.reference import Floats, options, ours, refused

VOCABULARY = 50
PENALTIES = st.floats(-2, 2)
IDS = st.lists(st.integers(0, 6), max_size=30)


def slowly(answer: list[int], logits_V: Floats, frequency: float, presence: float) -> list[float]:
    return [
        float(logit) - frequency * answer.count(token) - presence * (token in answer)
        for token, logit in enumerate(logits_V)
    ]


@given(prompt=IDS, answer=IDS, frequency=PENALTIES, presence=PENALTIES, seed=st.integers(0, 99))
def test_they_count_in_the_answer_only(
    prompt: list[int], answer: list[int], frequency: float, presence: float, seed: int
) -> None:
    logits_V = (np.random.default_rng(seed).normal(size=VOCABULARY) * 5).astype(np.float32)
    arguments = {"frequency_penalty": frequency, "presence_penalty": presence}
    prompt = [*prompt, VOCABULARY + 1]  # a placeholder's id has no logit
    got_V = ours(np.array([*prompt, *answer], np.int64), logits_V, arguments, prompt_length=len(prompt))
    np.testing.assert_allclose(got_V, slowly(answer, logits_V, frequency, presence), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "sampling", [{}, {"do_sample": True, "top_k": 0, "temperature": 2.0}], ids=["greedy", "drawn"]
)
def test_they_come_after_the_repetition_penalty_and_before_the_temperature(sampling: dict[str, Any]) -> None:
    logits_V = np.full(VOCABULARY, 6, np.float32)
    arguments = {"frequency_penalty": 0.5, "presence_penalty": 1.0, "repetition_penalty": 2.0, **sampling}
    got_V = ours(np.array([4, 4, 5, 5, 5]), logits_V, arguments, prompt_length=2)
    divisor = sampling.get("temperature", 1)
    assert got_V[[3, 4, 5]].tolist() == [6 / divisor, 3 / divisor, (3 - 3 * 0.5 - 1) / divisor]


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
def test_the_greedy_token_is_another_one(name: str) -> None:
    chosen = options(**{name: 1.5})
    assert not is_greedy(chosen)
    processor, rng = make_processor(chosen, 1), np.random.default_rng()
    logits_V = np.array([1, 2, 0], np.float32)
    assert processor(np.array([1]), logits_V, rng).argmax() == 1
    assert processor(np.array([1, 1]), logits_V, rng).argmax() == 0
    assert "expected -2 to 2" in refused(**{name: 2.1})
    assert options(**{name: 0}) == options()


def test_beams_find_the_answer_that_is_best_with_them() -> None:
    """So many beams that none is lost: every answer of three tokens is scored."""
    logits_V, prompt = np.log(np.array([1, 8, 4, 2], np.float32)), [1, 1]
    chosen = options(frequency_penalty=1.0, presence_penalty=0.5)
    chances_V = logits_V - np.log(np.exp(logits_V).sum())

    def score(answer: tuple[int, ...]) -> float:
        return sum(slowly(list(answer[:i]), chances_V, 1.0, 0.5)[token] for i, token in enumerate(answer))

    scores = {answer: score(answer) for answer in itertools.product(range(4), repeat=3)}
    best = sorted(scores, key=lambda answer: -scores[answer])[:1]
    beams = search(prompt, num_beams=16, max_new_tokens=3, processor=make_processor(chosen, len(prompt)))
    (got,) = drive(beams, prompt, lambda rows: [logits_V] * len(rows))
    assert scores[tuple(got.token_ids)] == pytest.approx(scores[best[0]], abs=1e-5)
    assert len(set(got.token_ids)) > 1
    (plain,) = drive(
        search(prompt, num_beams=16, max_new_tokens=3), prompt, lambda rows: [logits_V] * len(rows)
    )
    assert plain.token_ids == [1, 1, 1]
