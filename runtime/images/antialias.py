"""Frames resized as torch resizes bytes, bicubic and antialiased, to the last bit: as transformers' video processors.

Enters: uint8 [h, w, 3], a size. Leaves: uint8 of that size.

Two passes, along rows and then along columns, each rounded to uint8. A pass is a sum weighted by a filter around the
output pixel's centre. Pillow does the same and rounds weights to 22 binary digits; torch rounds them to int16, with as
many digits behind the point as the largest weight leaves room for (`_compute_index_ranges_int16_weights` in its
UpSampleKernel.cpp). So the two differ by a level in some pixels. The sums are of whole numbers far below 2**53: float64
has them exactly, in whatever order they are added.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_SUPPORT = 2.0
"""Input pixels on each side of the centre, where an image is not made smaller."""
_MOST_DIGITS = 22
_INT16 = 1 << 15
_TOGETHER = 32
"""Output pixels whose sums are one product of matrices."""

Bytes = NDArray[np.uint8]


def resized(image_HWC: Bytes, size: tuple[int, int]) -> Bytes:
    """The image in another (height, width)."""
    height, width = size
    if image_HWC.shape[1] != width:
        image_HWC = _along_first(image_HWC.transpose(1, 0, 2), width).transpose(1, 0, 2)
    if image_HWC.shape[0] != height:
        image_HWC = _along_first(image_HWC, height)
    return image_HWC


def _along_first(image_LXC: Bytes, length: int) -> Bytes:
    """One pass along the first axis."""
    first_N, weights_NK, digits = _weights(len(image_LXC), length)
    lines_LX = image_LXC.reshape(len(image_LXC), -1)
    result_NX = np.empty((length, lines_LX.shape[1]), np.uint8)
    half, scale = 1 << (digits - 1), 1 << digits
    for start in range(0, length, _TOGETHER):
        first, weights = first_N[start : start + _TOGETHER], weights_NK[start : start + _TOGETHER]
        begin, end = int(first[0]), min(len(lines_LX), int(first[-1]) + weights.shape[1])
        band_NL = np.zeros((len(first), end - begin))
        for row, (at, taps) in enumerate(zip(first - begin, weights, strict=True)):
            kept = band_NL[row, at : at + len(taps)]
            kept[:] = taps[: len(kept)]
        sums_NX = np.floor((band_NL @ lines_LX[begin:end].astype(np.float64) + half) / scale)
        result_NX[start : start + _TOGETHER] = np.clip(sums_NX, 0, 255)
    return result_NX.reshape(length, *image_LXC.shape[1:])


def _weights(length: int, result: int) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """For each output its first input, and weights from there on, [N, K], in units of 2**-digits; and the digits."""
    scale = length / result
    support = _SUPPORT * max(scale, 1.0)
    taps = 2 * math.ceil(np.float32(support)) + 1
    centre_N = scale * (np.arange(result) + 0.5)
    first_N = np.maximum((centre_N - support + 0.5).astype(np.int64), 0)
    count_N = np.clip(np.minimum((centre_N + support + 0.5).astype(np.int64), length) - first_N, 0, taps)
    tap_K = np.arange(taps)
    values_NK = _bicubic((tap_K + first_N[:, None] - centre_N[:, None] + 0.5) * (1.0 / max(scale, 1.0)))
    values_NK[tap_K >= count_N[:, None]] = 0.0
    total_N = np.zeros(result)
    for tap in range(taps):  # one after the other, as torch adds them
        total_N += values_NK[:, tap]
    values_NK /= total_N[:, None]
    digits, largest = 0, values_NK.max()
    while digits < _MOST_DIGITS and int(0.5 + largest * (1 << (digits + 1))) < _INT16:
        digits += 1
    values_NK *= 1 << digits
    return first_N, np.trunc(values_NK + np.copysign(0.5, values_NK)), digits


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
