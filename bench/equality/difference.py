"""How far two computations of the same logits are apart.

Enters: pairs of float32 [N, V], each along one answer. Leaves: a `Difference`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pumice.export.verify.text_scores import divergences, log_softmax

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Over all positions of all answers: `kl` is the mean of Σ p·log(p/q) in nats; `largest` is the largest |logit|.

    `same` answers of `answers` have the same most likely token everywhere: greedily they are the same.
    """

    same_bits: bool
    largest_difference: float
    largest: float
    kl: float
    same: int
    answers: int

    @property
    def same_tokens(self) -> bool:
        """Whether all greedy answers are the same."""
        return self.same == self.answers

    @property
    def relative(self) -> float:
        """The largest difference in parts of the largest logit."""
        return self.largest_difference / self.largest

    def __str__(self) -> str:
        if self.same_bits:
            return "same bits"
        apart = f"{self.largest_difference:.1g}"
        if self.same_tokens:
            return f"same tokens, {apart}" if self.kl < 1e-8 else f"same tokens, {apart}, KL {self.kl:.1g}"
        return f"{self.same} of {self.answers}, {apart}, KL {self.kl:.1g}"


def difference(pairs: Iterable[tuple[Floats, Floats]]) -> Difference:
    """Of (reference, other) pairs."""
    bits, largest, apart, same, answers = True, 0.0, 0.0, 0, 0
    kl: list[NDArray[np.float64]] = []
    for theirs_NV, ours_NV in pairs:
        bits &= np.array_equal(theirs_NV, ours_NV)
        largest = max(largest, float(np.abs(theirs_NV).max()))
        apart = max(apart, float(np.abs(theirs_NV - ours_NV).max()))
        same += bool((theirs_NV.argmax(-1) == ours_NV.argmax(-1)).all())
        answers += 1
        kl.append(divergences(log_softmax(theirs_NV), log_softmax(ours_NV)))
    mean = max(0.0, float(np.concatenate(kl).mean()))
    return Difference(
        same_bits=bits, largest_difference=apart, largest=largest, kl=mean, same=same, answers=answers
    )
