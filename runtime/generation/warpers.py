"""Warpers say which tokens may be drawn: top-k, top-p, min-p and typical sampling, as transformers has them.

Enters: scores of the K tokens that are still possible, float32 (K,), all finite. Leaves: a mask of those that stay, at
least `least` of them where there are so many.

Sums of probabilities decide who is still in; they are made as PyTorch makes them on a CPU: float32 probabilities added
up in float64, and the sum rounded to float32.

No vocabulary is sorted whole: a partition (0.1 ms for 152,000 tokens) finds the 1,024 that matter most, and only those
are sorted; where they are not enough, 16 times as many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Warper: TypeAlias = Callable[[Floats], Mask]

_FIRST_SORTED = 1024
_MORE_SORTED = 16


def warp(scores_V: Floats, warpers: Sequence[Warper]) -> Floats:
    """`scores_V`, minus infinity where a warper removes a token; each warper sees what the one before it left."""
    if not np.isfinite(scores_V.max()):
        return scores_V  # for the sampler to refuse
    tokens_K, scores_K = None, scores_V
    if np.isneginf(scores_V.min()):
        tokens_K = np.flatnonzero(scores_V > -np.inf)
        scores_K = scores_V[tokens_K]
    for warper in warpers:
        kept = np.flatnonzero(warper(scores_K))
        if len(kept) < len(scores_K):
            tokens_K = kept if tokens_K is None else tokens_K[kept]
            scores_K = scores_K[kept]
    if tokens_K is None:
        return scores_V
    warped_V = np.full_like(scores_V, -np.inf)
    warped_V[tokens_K] = scores_K
    return warped_V


def make_top_k(top_k: int, least: int) -> Warper:
    """The `top_k` likeliest, 1 or more, and all that are as likely as the last of them."""
    count = max(top_k, least)

    def warper(scores_K: Floats) -> Mask:
        return scores_K >= _highest(scores_K, min(count, len(scores_K)))

    return warper


_TINY = 1e-4
"""What is left of a sum of probabilities is exact to some 1e-8: what is this small must be summed up itself."""


def make_top_p(top_p: float, least: int) -> Warper:
    """The fewest likeliest whose probabilities add up to `top_p`, 0 to 1."""
    rest = np.float32(1 - top_p)

    def warper(scores_K: Floats) -> Mask:
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
        return _likeliest(scores_K, max(int((sums_M > rest).sum()), least))

    return warper


def make_min_p(min_p: float, least: int) -> Warper:
    """Those at least `min_p`, 0 to 1, times as likely as the likeliest."""
    share = np.float32(min_p)

    def warper(scores_K: Floats) -> Mask:
        exps_K = np.exp(scores_K - scores_K.max())
        chances_K = exps_K / exps_K.sum()
        kept_K: Mask = chances_K >= share * chances_K.max()
        return kept_K if least == 1 else kept_K | _likeliest(scores_K, least)

    return warper


def make_typical_p(typical_p: float, least: int) -> Warper:
    """Those about as surprising as is to be expected, the nearest first, until they have `typical_p` together.

    A token's surprise is −log(probability), what is to be expected is the entropy; `typical_p` is above 0, below 1.
    """
    mass = np.float32(typical_p)

    def warper(scores_K: Floats) -> Mask:
        shifted_K = scores_K - scores_K.max()
        logs_K = shifted_K - np.log(np.exp(shifted_K).sum())
        chances_K = np.exp(logs_K)
        distances_K = np.abs(-logs_K + (logs_K * chances_K).sum())
        for tokens_M in _highest_first(-distances_K):
            order_M = tokens_M[np.argsort(distances_K[tokens_M], kind="stable")]
            sums_M = chances_K[order_M].cumsum(dtype=np.float64).astype(np.float32)
            if sums_M[-1] >= mass:
                break
        last = min(int((sums_M < mass).sum()), len(order_M) - 1)
        kept_K: Mask = distances_K <= distances_K[order_M[last]]
        kept_K[order_M[:least]] = True
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


def _likeliest(scores_K: Floats, count: int) -> Mask:
    """The `count` highest; of equals the lower ids, where PyTorch's sort leaves it to chance."""
    if count >= len(scores_K):
        return np.ones(len(scores_K), np.bool_)
    last = _highest(scores_K, count)
    kept_K: Mask = scores_K >= last
    surplus = int(np.count_nonzero(kept_K)) - count
    if surplus:
        kept_K[np.flatnonzero(scores_K == last)[-surplus:]] = False
    return kept_K
