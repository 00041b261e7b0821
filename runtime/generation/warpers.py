"""Warpers say which tokens may be drawn: top-k, top-p, min-p and typical sampling, as transformers has them, and XTC.

Enters: scores of the K tokens that are still possible, float32 (K,), all finite, their ids, and the answer's generator
of random numbers. Leaves: a mask of those that stay, at least `least` of them where there are so many.

Sums of probabilities decide who is still in; they are made as PyTorch 2.13 makes them on a CPU: float32 probabilities
added up in float64, every sum rounded to float32, and compared with the bound rounded to float32, so that a `typical_p`
of 1 − 2⁻⁵³ asks for a sum of 1. The probabilities themselves differ from PyTorch's by some 1e-7 of theirs, which only
counts for a token whose sum is the bound itself, to the last digit, and for a `typical_p` that close to 1, where they
are made as PyTorch's.

A vocabulary is seldom sorted whole: a partition (0.1 ms for 152,000 tokens) finds the 1,024 that matter most, and only
those are sorted; where they are not enough, 16 times as many. All are where a bound leaves next to nothing out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pumice.generation.softmax import softmax

Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Ids: TypeAlias = NDArray[np.intp]
Rng: TypeAlias = np.random.Generator
Warper: TypeAlias = Callable[[Floats, Ids, Rng], Mask]

_FIRST_SORTED = 1024
_MORE_SORTED = 16


def warp(scores_V: Floats, warpers: Sequence[Warper], rng: Rng) -> Floats:
    """`scores_V`, minus infinity where a warper removes a token; each warper sees what the one before it left."""
    if not np.isfinite(scores_V.max()):
        return scores_V  # for the sampler to refuse
    tokens_K, scores_K = _all_tokens(len(scores_V)), scores_V
    if np.isneginf(scores_V.min()):
        tokens_K = np.flatnonzero(scores_V > -np.inf)
        scores_K = scores_V[tokens_K]
    for warper in warpers:
        kept = np.flatnonzero(warper(scores_K, tokens_K, rng))
        if len(kept) < len(scores_K):
            tokens_K, scores_K = tokens_K[kept], scores_K[kept]
    if len(tokens_K) == len(scores_V):
        return scores_V
    warped_V = np.full_like(scores_V, -np.inf)
    warped_V[tokens_K] = scores_K
    return warped_V


@lru_cache(maxsize=4)
def _all_tokens(count: int) -> Ids:
    tokens_V = np.arange(count)
    tokens_V.flags.writeable = False
    return tokens_V


def make_top_k(top_k: int, least: int) -> Warper:
    """The `top_k` most likely, 1 or more, and all that are as likely as the last of them."""
    count = max(top_k, least)

    def warper(scores_K: Floats, tokens_K: Ids, rng: Rng) -> Mask:  # noqa: ARG001  a warper's shape
        return scores_K >= _highest(scores_K, min(count, len(scores_K)))

    return warper


_TINY = 1e-4
"""What is left of a sum of probabilities is exact to some 1e-8: what is this small must be summed up itself."""


def make_top_p(top_p: float, least: int) -> Warper:
    """The smallest set of most likely tokens whose probabilities add up to `top_p`, 0 to 1.

    As in transformers a token goes if it and all that are less likely add up to no more than 1 − `top_p`. That is a
    float64 difference rounded to float32: of a `top_p` of 1 − 2⁻⁵³ the 2⁻⁵³ is left, and what is less likely goes.
    """
    rest = np.float32(1 - top_p)

    def warper(scores_K: Floats, tokens_K: Ids, rng: Rng) -> Mask:  # noqa: ARG001  a warper's shape
        highest = scores_K.max()
        sum_of_all = np.exp(scores_K - highest).sum(dtype=np.float64)
        norm = np.float32(sum_of_all)
        for tokens_M in _highest_first(scores_K):
            scores_M = np.sort(scores_K[tokens_M])[::-1]
            chances_M = (np.exp(scores_M - highest) / norm).astype(np.float64)
            # each with all that are less likely: what PyTorch sums up
            if len(tokens_M) == len(scores_K):
                sums_M = chances_M[::-1].cumsum()[::-1].astype(np.float32)
            elif rest < _TINY:
                continue
            else:  # from the other end
                sums_M = (sum_of_all / norm - (chances_M.cumsum() - chances_M)).astype(np.float32)
            if sums_M[-1] <= rest:
                break
        return _top(scores_K, max(int((sums_M > rest).sum()), least))

    return warper


def make_min_p(min_p: float, least: int) -> Warper:
    """Those at least `min_p`, 0 to 1, times as likely as the most likely."""
    share = np.float32(min_p)

    def warper(scores_K: Floats, tokens_K: Ids, rng: Rng) -> Mask:  # noqa: ARG001  a warper's shape
        exps_K = np.exp(scores_K - scores_K.max())
        chances_K = exps_K / exps_K.sum()
        kept_K: Mask = chances_K >= share * chances_K.max()
        return kept_K if least == 1 else kept_K | _top(scores_K, least)

    return warper


_NEARLY_ALL = np.float32(1 - 1e-5)
"""From here on, how probabilities are rounded decides whether they ever add up to a `typical_p`."""


def make_typical_p(typical_p: float, least: int) -> Warper:
    """Those about as surprising as is to be expected, the nearest first, until they have `typical_p` together.

    A token's surprise is −log(probability), what is to be expected is the entropy; `typical_p` is above 0, below 1.

    All tokens' float32 probabilities add up to 1 give or take 1e-7. Whether a `typical_p` within that of 1 is reached
    is a matter of rounding: above 1 − 1e-5 all tokens are sorted, and their probabilities are PyTorch's, bit for bit.
    """
    mass = np.float32(typical_p)

    def warper(scores_K: Floats, tokens_K: Ids, rng: Rng) -> Mask:  # noqa: ARG001  a warper's shape
        shifted_K = scores_K - scores_K.max()
        logs_K = shifted_K - np.log(np.exp(shifted_K).sum())
        chances_K = np.exp(logs_K)
        distances_K = np.abs(-logs_K + (logs_K * chances_K).sum())
        nearly_all = mass > _NEARLY_ALL
        for tokens_M in [np.arange(len(scores_K))] if nearly_all else _highest_first(-distances_K):
            order_M = tokens_M[np.argsort(distances_K[tokens_M], kind="stable")]
            chances_M = softmax(scores_K[order_M]) if nearly_all else chances_K[order_M]
            sums_M = chances_M.cumsum(dtype=np.float64).astype(np.float32)
            if sums_M[-1] >= mass:
                break
        last = min(int((sums_M < mass).sum()), len(order_M) - 1)
        kept_K: Mask = distances_K <= distances_K[order_M[last]]
        kept_K[order_M[:least]] = True
        return kept_K

    return warper


def make_xtc(probability: float, threshold: float, least: int, kept_ids: Sequence[int]) -> Warper:
    """With `probability`, of the tokens that have `threshold` or more all but the least likely go (XTC, "exclude top
    choices").

    As in llama.cpp nothing goes where fewer than two have it, and probabilities are those among the tokens that are
    left; but they are taken after the temperature, which llama.cpp applies last. As in mlx-lm equals of the least
    likely all stay, and so do tokens of `kept_ids`, which count all the same: these are the ends, for an answer whose
    end is taken away as often as it comes rambles on. Newlines, which mlx-lm's command keeps, too, are as others.

    One random number is drawn for each token, whatever the scores are.
    """
    bound = np.float32(threshold)
    ends = np.array(kept_ids, np.intp)

    def warper(scores_K: Floats, tokens_K: Ids, rng: Rng) -> Mask:
        kept_K: Mask = np.ones(len(scores_K), np.bool_)
        if rng.random() >= probability:
            return kept_K
        exps_K = np.exp(scores_K - scores_K.max())
        top_M = np.flatnonzero(exps_K / exps_K.sum() >= bound)
        if len(top_M) > 1:
            out_M = top_M[scores_K[top_M] > scores_K[top_M].min()]
            out_M = out_M[~np.isin(tokens_K[out_M], ends)]
            likeliest_first_M = out_M[np.argsort(-scores_K[out_M], kind="stable")]
            kept_K[likeliest_first_M[: max(len(scores_K) - least, 0)]] = False
        return kept_K

    return warper


def _highest(values_K: Floats, count: int) -> np.float32:
    """The last of the `count` highest values."""
    value: np.float32 = np.partition(values_K, len(values_K) - count)[len(values_K) - count]
    return value


def _highest_first(values_K: Floats) -> Iterator[NDArray[np.intp]]:
    """Indices, in no order, of some of the highest values, then of more, in the end of all of them."""
    count = _FIRST_SORTED
    while count < len(values_K):
        yield np.flatnonzero(values_K >= _highest(values_K, count))
        count *= _MORE_SORTED
    yield np.arange(len(values_K))


def _top(scores_K: Floats, count: int) -> Mask:
    """The `count` highest; of equals the lower ids, where PyTorch's sort leaves it to chance."""
    if count >= len(scores_K):
        return np.ones(len(scores_K), np.bool_)
    last = _highest(scores_K, count)
    kept_K: Mask = scores_K >= last
    surplus = int(np.count_nonzero(kept_K)) - count
    if surplus:
        kept_K[np.flatnonzero(scores_K == last)[-surplus:]] = False
    return kept_K
