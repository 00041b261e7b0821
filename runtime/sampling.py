"""Logits become a token: `(logits, rng) → token`, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Sampler: TypeAlias = Callable[[NDArray[np.float32], np.random.Generator], int]


def greedy(logits_V: NDArray[np.float32], rng: np.random.Generator) -> int:  # noqa: ARG001  a sampler's shape
    """The likeliest token; of equals the one with the lowest id. `logits_V` has shape (vocabulary,)."""
    return int(logits_V.argmax())
