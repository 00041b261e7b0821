"""Which tokens may continue which beams: the best continuations of all beams together, or some drawn among them.

Enters: for every beam the scores of its continuations, a float32 vector over the vocabulary; minus infinity is never
chosen. Leaves: `Candidate`s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Beam number `row` continued by `token`; `score` is of the whole continuation."""

    row: int
    token: int
    score: np.float32


def likeliest(scores_RV: Sequence[Floats], count: int) -> list[Candidate]:
    """The `count` highest, highest first; of equals the earlier row's first, and of one row the lower token's."""
    return _highest_of_all(scores_RV, scores_RV, count)


def drawn(scores_RV: Sequence[Floats], count: int, rng: np.random.Generator) -> list[Candidate]:
    """`count` different ones, in the order in which they are drawn, each by exp(score) among those that are left.

    Adding independent Gumbel noise to the logarithms and taking the highest is the same as drawing one after another
    without putting back, and needs no sum over what is left.
    """
    return _highest_of_all(scores_RV, [_with_noise(scores_V, rng) for scores_V in scores_RV], count)


def _with_noise(scores_V: Floats, rng: np.random.Generator) -> NDArray[np.float64]:
    possible = np.flatnonzero(scores_V > -np.inf)  # few of them, mostly
    noisy_V = np.full(len(scores_V), -np.inf)
    noisy_V[possible] = scores_V[possible] + rng.gumbel(size=len(possible))
    return noisy_V


def _highest_of_all(
    scores_RV: Sequence[Floats], keys_RV: Sequence[NDArray[np.floating]], count: int
) -> list[Candidate]:
    """Those of the `count` highest keys, highest first."""
    places = [
        (keys_V[token], row, token)
        for row, keys_V in enumerate(keys_RV)
        for token in _highest(keys_V, count).tolist()
    ]
    places.sort(key=lambda place: -place[0])
    return [Candidate(row=row, token=token, score=scores_RV[row][token]) for _, row, token in places[:count]]


def _highest(keys_V: NDArray[np.floating], count: int) -> NDArray[np.intp]:
    """Indices of the `count` highest keys above minus infinity, highest first, the lower index first of equals.

    One partition finds the last key that belongs to them (0.2 ms for 152,000), so only few are ever sorted.
    """
    size = len(keys_V)
    last = np.partition(keys_V, size - count)[size - count] if count < size else -np.inf
    chosen = np.flatnonzero((keys_V >= last) & (keys_V > -np.inf))
    return chosen[np.argsort(-keys_V[chosen], kind="stable")][:count]
