"""Oracle: the softmax of the scores that transformers' processors leave, by a chi-square test. Seeds are fixed; a right
sampler would fail one of the tests for one seed in a thousand."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from pumice.errors import GenerationError
from pumice.generation.logits_processors import make_processor
from pumice.generation.sampling import draw, greedy, make_rngs, make_sampler
from tests.runtime.generation.reference import options, theirs

DRAWS = 20_000


def critical(freedom: int, tail: float = 1e-3) -> float:
    """Chi-square's upper quantile, by Wilson and Hilferty's approximation."""
    share = 2 / (9 * freedom)
    return float(freedom * (1 - share + NormalDist().inv_cdf(1 - tail) * share**0.5) ** 3)


def test_the_critical_value() -> None:
    assert critical(10) == pytest.approx(29.59, rel=0.01)
    assert critical(30) == pytest.approx(59.70, rel=0.01)


def statistic(counts_V: np.ndarray, chances_V: np.ndarray) -> tuple[float, int]:
    """Chi-square and its degrees of freedom; rare tokens, fewer than 5 expected, count as one."""
    means_V = chances_V * counts_V.sum()
    rare_V = means_V < 5
    counts = np.append(counts_V[~rare_V], counts_V[rare_V].sum())
    means = np.append(means_V[~rare_V], means_V[rare_V].sum())
    counts, means = counts[means > 0], means[means > 0]
    return float(((counts - means) ** 2 / means).sum()), len(means) - 1


@pytest.mark.export_extra
@pytest.mark.parametrize(
    "warpers",
    [
        {"top_k": 0},
        {"top_k": 0, "temperature": 0.5},
        {"top_k": 0, "temperature": 1.7},
        {"top_k": 7},
        {"top_k": 0, "top_p": 0.8},
        {"top_k": 0, "min_p": 0.1},
        {"top_k": 0, "typical_p": 0.7},
        {"top_k": 12, "temperature": 1.5, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_draws_are_distributed_as_transformers_scores(warpers: dict[str, Any]) -> None:
    logits_V = (np.random.default_rng(5).normal(size=40) * 1.5).astype(np.float32)
    ids_T = np.array([3, 1, 3])
    arguments = {"do_sample": True, "seed": 11, **warpers}
    chosen = options(**arguments)
    process, sampler, rng = make_processor(chosen, 1), make_sampler(chosen), make_rngs(chosen)[0]
    tokens = [sampler(process(ids_T, logits_V, rng), rng) for _ in range(DRAWS)]
    counts_V = np.bincount(tokens, minlength=40)
    arguments.pop("seed")
    scores_V = theirs(ids_T, logits_V, arguments).astype(np.float64)
    chances_V = np.exp(scores_V - scores_V.max()) / np.exp(scores_V - scores_V.max()).sum()
    assert not counts_V[chances_V == 0].any()
    got, freedom = statistic(counts_V, chances_V)
    assert freedom > 1
    assert got < critical(freedom)
    other_V = np.roll(chances_V, 1)  # the test can fail
    assert statistic(counts_V, 0.9 * chances_V + 0.1 * other_V)[0] > critical(freedom)


def test_one_random_number_each_whatever_the_scores() -> None:
    rng, other = np.random.default_rng(1), np.random.default_rng(1)
    draw(np.zeros(9, np.float32), rng)
    draw(np.array([1, -np.inf, -np.inf], np.float32), other)
    assert rng.random() == other.random()


def test_the_ends_of_the_interval() -> None:
    class Fixed:
        def __init__(self, chance: float) -> None:
            self.random = lambda: chance

    scores_V = np.array([-np.inf, 0, 1, -np.inf, -200, -np.inf], np.float32)
    assert draw(scores_V, Fixed(0.0)) == 1  # type: ignore[arg-type]
    assert draw(scores_V, Fixed(np.nextafter(1.0, 0.0))) in (2, 4)  # type: ignore[arg-type]


def test_greedy_takes_the_first_of_equals() -> None:
    assert greedy(np.array([0, 2, 2, -np.inf], np.float32), np.random.default_rng()) == 1
    assert make_sampler(options()) is greedy
    assert make_sampler(options(do_sample=True)) is draw
    assert make_sampler(options(do_sample=True, temperature=0)) is greedy


@pytest.mark.parametrize("sampler", [greedy, draw])
@pytest.mark.parametrize(
    ("score", "told"), [(-np.inf, "no token is allowed"), (np.inf, "the highest score is inf")]
)
def test_scores_of_which_none_can_be_chosen(sampler: Any, score: float, told: str) -> None:
    with pytest.raises(GenerationError, match=told):
        sampler(np.full(5, score, np.float32), np.random.default_rng())


def numbers(**arguments: Any) -> list[list[float]]:
    return [rng.random(4).tolist() for rng in make_rngs(options(do_sample=True, **arguments))]


def test_a_seed_gives_the_same_numbers_and_each_sequence_its_own() -> None:
    alone, several = numbers(seed=3), numbers(seed=3, num_return_sequences=5)
    assert numbers(seed=3) == alone
    assert several[0] == alone[0]
    assert len({tuple(n) for n in several}) == 5
    assert numbers(seed=3, num_return_sequences=2) == several[:2]
    assert numbers(seed=4) != alone
    assert numbers(seed=2**64 - 1) == numbers(seed=2**64 - 1)


def test_no_seed_gives_others_each_time() -> None:
    assert numbers() != numbers()
