"""How far one model's next tokens are from another's along a text: perplexity, KL and top-1. Knows neither model.

Enters: logits of both at the same positions, float32 [N, V], and the token that stands next in the text, int64 [N];
as many at a time as the caller likes. Leaves: a `TextScore`.

Definitions, over all positions: perplexity is exp of the mean of −log p(next token); KL is Σ p·log(p/q) in nats, p
the reference's distribution and q ours, of which `kl` is the mean and `kl_99` the 99th percentile; top-1 is the share
of positions with the same best token. All of it is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOAT64_VALUES = 1 << 20
"""Logits at a time in float64: 8 MiB."""


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """What the figures are over `positions` scored positions; KL in nats, `top1` from 0 to 1."""

    positions: int
    perplexity: float
    reference_perplexity: float
    kl: float
    kl_99: float
    top1: float


class Scores:
    """Gathers positions. Of each, 8 bytes are kept (its KL, for the percentile), and never its logits."""

    def __init__(self) -> None:
        self._theirs = self._ours = 0.0
        self._same = 0
        self._kl: list[NDArray[np.float64]] = []

    @property
    def positions(self) -> int:
        """Positions so far."""
        return sum(len(part) for part in self._kl)

    def add(
        self, theirs_NV: NDArray[np.float32], ours_NV: NDArray[np.float32], next_ids_N: NDArray[np.int64]
    ) -> None:
        """Count N positions: logits of the reference and ours, and the token that comes next in the text.

        Raises:
            ValueError: the three are not of the same positions, or the two not over the same vocabulary.
        """
        if theirs_NV.shape != ours_NV.shape or theirs_NV.shape[:1] != next_ids_N.shape:
            shapes = [list(array.shape) for array in (theirs_NV, ours_NV, next_ids_N)]
            raise ValueError(
                f"logits {shapes[0]} and {shapes[1]} with next ids {shapes[2]}: expected the same"
            )
        step = max(1, FLOAT64_VALUES // theirs_NV.shape[1])
        for start in range(0, len(theirs_NV), step):
            part = slice(start, start + step)
            p, q = log_softmax(theirs_NV[part]), log_softmax(ours_NV[part])
            next_N1 = next_ids_N[part, None]
            self._theirs += float(np.take_along_axis(p, next_N1, 1).sum())
            self._ours += float(np.take_along_axis(q, next_N1, 1).sum())
            self._kl.append(divergences(p, q))
        self._same += int((theirs_NV.argmax(-1) == ours_NV.argmax(-1)).sum())

    def score(self) -> TextScore:
        """The figures over all positions so far.

        Raises:
            ValueError: there are none.
        """
        count = self.positions
        if not count:
            raise ValueError("no position was scored")
        kl = np.concatenate(self._kl)
        return TextScore(
            positions=count,
            perplexity=_exp(-self._ours / count),
            reference_perplexity=_exp(-self._theirs / count),
            kl=float(np.maximum(0.0, kl.mean())),  # rounding may leave −1e-17; NaN stays NaN
            kl_99=float(np.maximum(0.0, np.percentile(kl, 99))),
            top1=self._same / count,
        )

    @classmethod
    def merged(cls, scores: Sequence[Scores]) -> Scores:
        """The positions of all of `scores` as one; those stay as they are."""
        whole = cls()
        for part in scores:
            whole._theirs += part._theirs
            whole._ours += part._ours
            whole._same += part._same
            whole._kl += part._kl
        return whole


def divergences(p_NV: NDArray[np.float64], q_NV: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(p ‖ q) of each position in nats, both as log-probabilities [N, V] → [N]."""
    result: NDArray[np.float64] = (np.exp(p_NV) * (p_NV - q_NV)).sum(-1)
    return result


def log_softmax(logits_NV: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities in float64, [N, V]."""
    shifted = logits_NV.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def _exp(value: float) -> float:
    return math.exp(value) if not value > 709 else math.inf
