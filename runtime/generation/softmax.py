"""Softmax as PyTorch rounds it on a CPU, to the last bit, for what only its rounding decides.

Enters: finite scores, float32 (K,), in the order in which PyTorch would have them; minus infinities after them add
nothing and may be left out. Leaves: probabilities, float32 (K,).

`exp(x) / sum` takes fewer steps and differs from it by some 1e-7.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

_LANES = 16
"""Float32 numbers that PyTorch adds up side by side on a CPU with AVX-512; 8 on one with AVX2."""

_LN2_HIGH = np.float32(0.693145751953125)
_LN2_LOW = np.float32(1.428606765330187e-06)
_FIRST = np.float32(0.00019852762)  # of s^7
_FURTHER = np.array([0.0013930436, 0.008333361, 0.041666485, 0.16666667, 0.5], np.float32)  # of s^6 to s^2
_UNDERFLOW = -104


def softmax(scores_K: Floats) -> Floats:
    """Powers are summed in `_LANES` float32 sums, one power to each in turn, these by halves; powers times 1 / sum.

    Source: `vec_softmax_lastdim_kernel` and `vec_reduce_all` of PyTorch 2.13, ATen/native/cpu and ATen/cpu/vec.
    """
    powers_K = _exp(scores_K - scores_K.max())
    padded = np.pad(powers_K, (0, -len(powers_K) % _LANES))
    sums = padded.reshape(-1, _LANES).sum(axis=0, dtype=np.float32)
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    chances_K: Floats = powers_K * (np.float32(1) / sums[0])
    return chances_K


def _exp(x_K: Floats) -> Floats:
    """e to the power of numbers of 0 and less, as Sleef's `expf` of 1.0 ULP: 2^q · e^s with |s| ≤ ln(2) / 2.

    Source: Sleef 3, src/libm/sleefsimdsp.c, `xexpf`.
    """
    underflow_K = x_K < _UNDERFLOW
    x_K = np.maximum(x_K, np.float32(_UNDERFLOW))  # a lower q is no int32
    q_K = np.rint(x_K * np.float32(np.log2(np.e)))
    s_K = _multiply_add(q_K, -_LN2_LOW, _multiply_add(q_K, -_LN2_HIGH, x_K))
    series_K = np.full_like(x_K, _FIRST)
    for factor in _FURTHER:
        series_K = _multiply_add(series_K, s_K, factor)
    series_K = np.float32(1) + _multiply_add(s_K * s_K, series_K, s_K)
    powers_K: Floats = np.ldexp(series_K, q_K.astype(np.int32))
    powers_K[underflow_K] = 0
    return powers_K


def _multiply_add(a_K: Floats, b: Floats | np.float32, c: Floats | np.float32) -> Floats:
    """a · b + c, rounded once to float32, as a CPU's FMA: float64 holds the product exactly."""
    rounded_K: Floats = (a_K.astype(np.float64) * b + c).astype(np.float32)
    return rounded_K
