"""Part of an enlarged image, without the rest of it: Pillow's resampling for a window of the result.

An image of 1 × 60,000 enlarged to 336 pixels across would be 20 million pixels high, of which a centre crop keeps 336.
Pillow enlarges in two passes, first along rows, then along columns. Each is a sum weighted by a filter around the
output pixel's centre, with the weights rounded to 22 binary digits. Here the same sums are made for the kept rows
and columns only, equal to Pillow's to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_PRECISION_BITS = 32 - 8 - 2  # as in Pillow's Resample.c

Filter: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


FILTERS: dict[int, tuple[Filter, int]] = {2: (_bilinear, 1), 3: (_bicubic, 2)}
"""Filter and its support in input pixels, by PIL's number."""


def enlarge_window(
    pixels_HWC: NDArray[np.uint8], size: tuple[int, int], rows: slice, columns: slice, resample: int
) -> NDArray[np.uint8]:
    """`image.resize(size)[rows, columns]`, where `size` = (height, width) is larger than the image on both sides."""
    top, weights_RK = _weights(pixels_HWC.shape[0], size[0], rows, resample)
    used = slice(int(top.min()), int(top.max()) + weights_RK.shape[1])
    left, weights_SK = _weights(pixels_HWC.shape[1], size[1], columns, resample)
    narrow_WHC = _weighted(pixels_HWC[used].transpose(1, 0, 2), left, weights_SK)
    return _weighted(narrow_WHC.transpose(1, 0, 2), top - used.start, weights_RK)


def _weights(
    length: int, enlarged: int, kept: slice, resample: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each kept output position: its first input position, and the weights from there on, shape = (kept, taps)."""
    function, support = FILTERS[resample]
    scale = float(np.float32(length)) / enlarged
    centre_N = (np.arange(kept.start, kept.stop) + 0.5) * scale
    first_N = np.maximum((centre_N - support + 0.5).astype(np.int64), 0)
    end_N = np.minimum((centre_N + support + 0.5).astype(np.int64), length)
    position_NK = first_N[:, None] + np.arange(2 * math.ceil(support) + 1)
    weight_NK = np.where(position_NK < end_N[:, None], function(position_NK - centre_N[:, None] + 0.5), 0.0)
    total_N1 = np.zeros((len(centre_N), 1))
    for tap in range(weight_NK.shape[1]):  # one after the other, as Pillow adds them
        total_N1[:, 0] += weight_NK[:, tap]
    scaled_NK = weight_NK / total_N1 * (1 << _PRECISION_BITS)
    return first_N, np.trunc(scaled_NK + np.copysign(0.5, scaled_NK)).astype(np.int64)


def _weighted(
    pixels_LXC: NDArray[np.uint8], first_N: NDArray[np.int64], weights_NK: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Weighted sums along the first axis, rounded to uint8, shape = (N, X, C)."""
    sums_NXC = np.full((len(first_N), *pixels_LXC.shape[1:]), 1 << (_PRECISION_BITS - 1), np.int64)
    for tap in range(weights_NK.shape[1]):
        position_N = np.minimum(first_N + tap, len(pixels_LXC) - 1)
        sums_NXC += pixels_LXC[position_N] * weights_NK[:, tap, None, None]
    rounded_NXC: NDArray[np.uint8] = np.clip(sums_NXC >> _PRECISION_BITS, 0, 255).astype(np.uint8)
    return rounded_NXC
