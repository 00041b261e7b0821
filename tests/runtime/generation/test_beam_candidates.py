"""Oracle: a sort of everything, and the probabilities of drawing without putting back. Tolerance: none; a chi-square
test."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pumice.generation.beam_search import best, drawn


@settings(max_examples=200)
@given(data=st.data(), rows=st.integers(1, 4), size=st.integers(1, 40), count=st.integers(1, 60))
def test_the_likeliest_are_sorted_and_the_first_of_equals(
    data: st.DataObject, rows: int, size: int, count: int
) -> None:
    numbers = st.sampled_from([-np.inf, -3.0, -2.5, -1.0, 0.0])
    scores_RV = [
        np.array(data.draw(st.lists(numbers, min_size=size, max_size=size)), np.float32) for _ in range(rows)
    ]
    everything = [
        (-float(score), row, token) for row, v in enumerate(scores_RV) for token, score in enumerate(v)
    ]
    expected = sorted(one for one in everything if one[0] < np.inf)[:count]
    assert [(-float(c.score), c.row, c.token) for c in best(scores_RV, count)] == expected


def test_drawing_is_one_after_another_without_putting_back() -> None:
    """Oracle: the product of the conditional probabilities, for every ordered pair out of four."""
    chances = {(0, 0): 0.5, (0, 2): 0.2, (1, 0): 0.2, (1, 1): 0.1}
    scores_RV = [np.full(3, -np.inf, np.float32) for _ in range(2)]
    for (row, token), chance in chances.items():
        scores_RV[row][token] = np.log(chance) - 7  # need not be normalised
    rng, count = np.random.default_rng(0), 20_000
    got = Counter(tuple((c.row, c.token) for c in drawn(scores_RV, 2, rng)) for _ in range(count))
    assert sum(got.values()) == count
    expected = {
        (a, b): count * chances[a] * chances[b] / (1 - chances[a]) for a, b in permutations(chances, 2)
    }
    assert set(got) == set(expected)
    statistic = sum((got[pair] - mean) ** 2 / mean for pair, mean in expected.items())
    assert statistic < 31.3  # chi-square with 11 degrees of freedom exceeds it once in a thousand
    assert {c.token for c in drawn(scores_RV, 9, rng)} == {0, 1, 2}
