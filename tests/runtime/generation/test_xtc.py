"""`xtc_probability` and `xtc_threshold`. Oracle: the definition, token by token, in Python. Tolerance: none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pumice.generation.logits_processors import is_greedy, make_processor
from pumice.generation.options import _warn_of_idle
from pumice.generation.sampling import make_rngs, make_sampler
from tests.runtime.generation.beam_driving import drive, logits_of, search, tiny
from tests.runtime.generation.reference import Floats, options, ours

END = 2
XTC: dict[str, Any] = {"do_sample": True, "top_k": 0, "xtc_probability": 1.0}


def slowly(logits: list[float], threshold: float) -> set[int]:
    """The tokens that are left: of those at or above `threshold` only the least likely, its equals, and the end."""
    total = math.fsum(math.exp(logit - max(logits)) for logit in logits)
    chances = [math.exp(logit - max(logits)) / total for logit in logits]
    assume(all(abs(chance - threshold) > 1e-5 for chance in chances))  # float32 may see it otherwise
    top = [token for token, chance in enumerate(chances) if chance >= threshold]
    if len(top) < 2:
        return set(range(len(logits)))
    least = min(logits[token] for token in top)
    return {
        token for token in range(len(logits)) if token not in top or logits[token] == least or token == END
    }


def left(logits_V: Floats, **arguments: Any) -> set[int]:
    got_V = ours(np.arange(1), logits_V, XTC | arguments)
    kept_V = np.isfinite(got_V)
    np.testing.assert_array_equal(got_V[kept_V], logits_V[kept_V])
    return set(np.flatnonzero(kept_V).tolist())


@given(
    logits=st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=3, max_size=30),
    threshold=st.floats(0.001, 0.5),
)
def test_the_top_choices_go_but_the_last(logits: list[float], threshold: float) -> None:
    expected = slowly(logits, threshold)
    assert left(np.array(logits, np.float32), xtc_threshold=threshold) == expected


def logs(*chances: float) -> Floats:
    return np.log(np.array(chances, np.float32))


def test_an_example() -> None:
    logits_V = logs(0.4, 0.25, 0.04, 0.2, 0.11)
    assert left(logits_V) == {2, 4}  # 0.1 by default
    assert left(logits_V, xtc_threshold=0.15) == {2, 3, 4}
    assert left(logits_V, xtc_threshold=0.3) == {0, 1, 2, 3, 4}  # one alone stays
    assert left(logits_V, xtc_probability=0.0) == {0, 1, 2, 3, 4}


def test_ends_are_spared_and_count() -> None:
    assert left(logs(0.1, 0.3, 0.6), xtc_threshold=0.2) == {0, 1, END}
    assert left(logs(0.1, 0.6, 0.3), xtc_threshold=0.2) == {0, END}


def test_it_comes_after_what_truncates_and_after_the_temperature() -> None:
    logits_V = logs(0.3, 0.25, 0.05, 0.2, 0.2)
    got_V = ours(np.arange(1), logits_V, XTC | {"top_k": 2, "xtc_threshold": 0.4})
    assert np.flatnonzero(np.isfinite(got_V)).tolist() == [1]  # 0.45 of the two that are left
    hot_V = ours(np.arange(1), logs(0.8, 0.19, 0.01), XTC | {"temperature": 2.0, "xtc_threshold": 0.25})
    assert np.flatnonzero(np.isfinite(hot_V)).tolist() == [1, 2]


@pytest.mark.parametrize("probability", [0.25, 0.7])
def test_it_comes_as_often_as_asked_for(probability: float) -> None:
    chosen = options(do_sample=True, top_k=0, xtc_probability=probability)
    processor, rng = make_processor(chosen, 1), np.random.default_rng(3)
    logits_V = logs(0.5, 0.4, 0.05, 0.05)
    times = sum(np.isneginf(processor(np.arange(1), logits_V, rng)[0]) for _ in range(4000))
    assert abs(times / 4000 - probability) < 4 * math.sqrt(probability * (1 - probability) / 4000)


def test_one_random_number_where_it_is_on_and_none_where_it_is_off() -> None:
    def drawn(count: int) -> float:
        rng = np.random.default_rng(1)
        rng.random(count)
        return rng.random()

    for logits_V in (logs(0.5, 0.3, 0.2), logs(0.9, 0.05, 0.05)):
        for probability, count in ((0.0, 0), (0.5, 1), (1.0, 1)):
            rng = np.random.default_rng(1)
            chosen = options(do_sample=True, xtc_probability=probability, xtc_threshold=0.1)
            make_processor(chosen, 1)(np.arange(1), logits_V, rng)
            assert rng.random() == drawn(count)


def test_a_seed_decides_what_goes() -> None:
    def tokens(**arguments: Any) -> list[int]:
        chosen = options(do_sample=True, top_k=0, **arguments)
        processor, sampler, rng = make_processor(chosen, 1), make_sampler(chosen), make_rngs(chosen)[0]
        return [sampler(processor(np.arange(1), logs(0.5, 0.3, 0.1, 0.1), rng), rng) for _ in range(40)]

    on = {"xtc_probability": 0.5, "xtc_threshold": 0.2}
    assert tokens(seed=4, **on) == tokens(seed=4, **on) != tokens(seed=5, **on)
    assert tokens(seed=4, xtc_threshold=0.2) == tokens(seed=4)


def test_beams_keep_enough_to_go_on() -> None:
    logits_V = np.array([3, 2, -np.inf, 1], np.float32)
    assert left(logits_V, xtc_threshold=0.05) == {3}
    assert left(logits_V, xtc_threshold=0.05, num_beams=3) == {1, 3}  # one more than there are ends


@pytest.mark.export_extra
def test_beams_draw_from_their_own_generator() -> None:
    chosen = options(num_beams=3, **XTC | {"xtc_probability": 0.5, "xtc_threshold": 0.05})
    prompt = [4, 5]

    def answer(seed: int) -> list[int]:
        beams = search(
            prompt,
            num_beams=3,
            do_sample=True,
            max_new_tokens=12,
            seed=seed,
            processor=make_processor(chosen, 2),
        )
        return drive(beams, prompt, logits_of(tiny(1)))[0].token_ids

    assert answer(1) == answer(1)
    assert len({tuple(answer(seed)) for seed in range(4)}) > 1


def test_it_is_for_sampling(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_idle.cache_clear()
    assert is_greedy(options(xtc_probability=1.0))
    assert "xtc_probability: without do_sample=True" in caplog.text
