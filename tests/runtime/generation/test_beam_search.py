"""Oracle: what beam search is by definition, on logits made up for it; greedy decoding. Tolerance: none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pumice.errors import GenerationError

from .beam_driving import VOCABULARY, Floats, Processor, drive, lettered, logits_of, search, tiny


@pytest.mark.export_extra
def test_stop_strings_are_found_however_long_the_answer() -> None:
    text, bars = lettered().decode, [48] * 200
    forced = [*bars, 4, 0, 48]  # "aa", "a"
    logits = lambda rows: [one_hot(forced[min(len(row), 203) - 1]) for row in rows]  # noqa: E731
    strategy = search([1], num_beams=2, max_new_tokens=300, stop_strings=("aaa",), decode=text)
    answer = drive(strategy, [1], logits)[0]
    assert answer.token_ids == forced[:-1]
    assert answer.text == text(bars)
    assert answer.finish_reason == "stop"


def one_hot(token: int) -> Floats:
    scores_V = np.linspace(0, 1, VOCABULARY, dtype=np.float32)
    scores_V[token] = 50
    return scores_V


@pytest.mark.export_extra
@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_one_beam_is_greedy(seed: int, early_stopping: bool) -> None:
    logits, prompt, eos_ids = logits_of(tiny(seed)), [seed, 9], range(seed, VOCABULARY, 9)
    expected: list[int] = []
    while len(expected) < 12 and not (expected and expected[-1] in eos_ids):
        expected.append(int(logits([prompt + expected])[0].argmax()))
    strategy = search(
        prompt, num_beams=1, max_new_tokens=12, eos_ids=list(eos_ids), early_stopping=early_stopping
    )
    assert strategy.rows == 1
    assert [answer.token_ids for answer in drive(strategy, prompt, logits)] == [expected]


@pytest.mark.export_extra
def test_a_cancelled_search_gives_the_best_so_far() -> None:
    logits, prompt = logits_of(tiny(0)), [3, 7]
    given: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.5}
    cut = drive(search(prompt, **given, max_new_tokens=30), prompt, logits, steps=4)
    assert [len(answer.token_ids) for answer in cut] == [5] * 3
    assert {answer.finish_reason for answer in cut} == {"cancelled"}
    whole = drive(search(prompt, **given, max_new_tokens=5), prompt, logits)
    assert [answer.token_ids for answer in cut] == [answer.token_ids for answer in whole]
    nothing = search(prompt, **given, max_new_tokens=3).finish(cancelled=True)
    assert [(answer.text, answer.token_ids, answer.finish_reason) for answer in nothing] == [
        ("", [], "cancelled")
    ] * 3


def test_a_cancelled_search_counts_answers_that_ended() -> None:
    """Token 1 ends, and follows 5."""
    after = {0: {5: 10.0, 6: 9.0}, 5: {1: 20.0}, 6: {7: 20.0}, 7: {1: 20.0}}
    logits = lambda rows: [vector(after.get(row[-1], {8: 1.0})) for row in rows]  # noqa: E731
    given: dict[str, Any] = {"num_beams": 2, "num_return_sequences": 2, "eos_ids": [1], "max_new_tokens": 9}
    strategy = search([0], **given, early_stopping=True)
    cut = drive(strategy, [0], logits, steps=1)
    assert [(answer.token_ids, answer.finish_reason) for answer in cut] == [
        ([5, 1], "cancelled"),
        ([6, 7], "cancelled"),
    ]
    strategy = search([0], **given, early_stopping=True)
    ended = drive(strategy, [0], logits)
    assert [(answer.token_ids, answer.finish_reason) for answer in ended] == [
        ([5, 1], "stop"),
        ([6, 7, 1], "stop"),
    ]
    assert strategy.finish(cancelled=True) == ended  # it had ended before


def vector(values: dict[int, float]) -> Floats:
    scores_V = np.zeros(VOCABULARY, np.float32)
    scores_V[list(values)] = list(values.values())
    return scores_V


def only(*allowed: int) -> Processor:
    def process(ids_T: NDArray[np.int64], scores_V: Floats, rng: np.random.Generator) -> Floats:
        masked_V = np.full_like(scores_V, -np.inf)
        masked_V[list(allowed)] = scores_V[list(allowed)]
        return masked_V

    return process


def test_no_forbidden_token_is_taken_where_few_are_left() -> None:
    given: dict[str, Any] = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 2}
    logits = lambda rows: [vector({4: 1.0, 5: 2.0}) for _ in rows]  # noqa: E731
    answers = drive(search([0], **given, processor=only(4, 5)), [0], logits)
    assert [answer.token_ids for answer in answers] == [[5, 5], [5, 4], [4, 5], [4, 4]]
    answers = drive(search([0], **given, processor=only(4)), [0], logits)
    assert [answer.token_ids for answer in answers] == [[4, 4]] * 4
    answers = drive(search([0], **given, processor=only(1, 4), eos_ids=[1]), [0], logits)
    assert [answer.token_ids for answer in answers] == [[4, 4], [4, 1], [1], [1]]
    answers = drive(search([0], **given, processor=only(1), eos_ids=[1]), [0], logits)
    assert [answer.token_ids for answer in answers] == [[1]] * 4
    for do_sample in (False, True):
        with pytest.raises(GenerationError, match="forbid every token"):
            search([0], **given, processor=only(), do_sample=do_sample).advance(logits([[0]]))


def test_the_processor_gets_prompt_and_answer_and_leaves_logits_alone() -> None:
    seen: list[list[int]] = []

    def process(ids_T: NDArray[np.int64], scores_V: Floats, rng: np.random.Generator) -> Floats:
        assert ids_T.dtype == np.int64
        assert scores_V.dtype == np.float32
        assert math.isclose(float(np.exp(scores_V).sum()), 1, rel_tol=1e-5)
        seen.append(ids_T.tolist())
        return scores_V

    logits_V = vector({4: 3.0, 5: 2.0})
    before_V = logits_V.copy()
    drive(
        search([8, 9], max_new_tokens=2, num_beams=2, processor=process),
        [8, 9],
        lambda rows: [logits_V] * len(rows),
    )
    assert seen == [[8, 9], [8, 9, 4], [8, 9, 5]]
    assert np.array_equal(logits_V, before_V)


@pytest.mark.export_extra
def test_a_seed_decides_what_is_drawn() -> None:
    logits, prompt = logits_of(tiny(2)), [4]
    given: dict[str, Any] = {"num_beams": 3, "do_sample": True, "max_new_tokens": 8}
    first, second, other = (
        drive(search(prompt, **given, seed=seed), prompt, logits)[0].token_ids for seed in (0, 0, 1)
    )
    assert first == second != other


@pytest.mark.parametrize("seed", range(20))
def test_drawn_candidates_end_only_if_they_are_among_the_best(seed: int) -> None:
    """All four possible tokens are drawn at once, in any order, and the limit ends every answer."""
    given: dict[str, Any] = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 1}
    logits = lambda rows: [vector({4: 3.0, 5: 2.0, 6: 1.0}) for _ in rows]  # noqa: E731
    strategy = search([0], **given, do_sample=True, processor=only(1, 4, 5, 6), seed=seed)
    assert [answer.token_ids for answer in drive(strategy, [0], logits)] == [[4], [5]]
