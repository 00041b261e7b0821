"""Scores become a token: `(scores, rng) → token`, in NumPy.

Enters: scores of the whole vocabulary, minus infinity where a token must not follow, and a generator of random numbers,
of which each answer has its own. Leaves: a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pumice.errors import GenerationError
from pumice.generation.options import GenerationOptions

Floats: TypeAlias = NDArray[np.float32]
Sampler: TypeAlias = Callable[[Floats, np.random.Generator], int]


def greedy(scores_V: Floats, rng: np.random.Generator) -> int:  # noqa: ARG001  a sampler's shape
    """The greedy (argmax) token; of equals the one with the lowest id. `scores_V` has shape (vocabulary,).

    Raises:
        GenerationError: no token is allowed.
    """
    token = int(scores_V.argmax())
    _check(scores_V[token])
    return token


def draw(scores_V: Floats, rng: np.random.Generator) -> int:
    """A token with probability softmax(`scores_V`), shape (vocabulary,), in float64.

    It takes one random number whatever the scores are. Options that draw take theirs before, one for each token
    where they are on and none where they are off, so that a seed's tokens do not depend on what else runs.

    Raises:
        GenerationError: no token is allowed, or a score is too large for a float32.
    """
    chance = rng.random()
    tokens_K = np.flatnonzero(scores_V > -np.inf)
    scores_K = scores_V[tokens_K].astype(np.float64)
    highest = scores_K.max(initial=-np.inf)
    _check(highest)
    sums_K = np.exp(scores_K - highest).cumsum()
    # below the last sum, as chance is below 1, but for rounding
    place = min(int(sums_K.searchsorted(chance * sums_K[-1], side="right")), len(tokens_K) - 1)
    return int(tokens_K[place])


def make_sampler(options: GenerationOptions) -> Sampler:
    """The greedy (argmax) token, or with `do_sample` one that is drawn."""
    return draw if options.do_sample else greedy


def make_rngs(options: GenerationOptions) -> list[np.random.Generator]:
    """A generator for each returned sequence, independent of the others.

    With a seed always the same ones, of which the first does not depend on how many there are; without one, others
    each time.
    """
    first = np.random.SeedSequence(options.seed)
    others = first.spawn(options.num_return_sequences - 1)
    return [np.random.default_rng(sequence) for sequence in (first, *others)]


def _check(highest: np.floating) -> None:
    """The highest score is a number: something can be chosen, and compared."""
    if np.isfinite(highest):
        return
    if highest == -np.inf:
        raise GenerationError(
            "no token is allowed to follow: the options forbid all of them; loosen bad_words_ids, min_new_tokens, "
            "no_repeat_ngram_size, json_schema or regex"
        )
    raise GenerationError(f"the highest score is {highest}, expected a number: a float32 cannot hold it")
