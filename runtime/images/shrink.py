"""A grid of features made smaller: bilinear, as `torch.nn.functional.interpolate` does it.

Places and shares are torch's to the bit; sums are rounded in another order, within 5e-7 of features up to 1.

Enters: what gives a line of features, and how many lines and features in each there are. Leaves: fewer of both.

Output i lies at x = s·(i + ½) − ½ of the input, s = input length / output length: torch rounds s to float32, and x
once, after both its product and its sum. A line of the grid is made only when one of the result needs it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def shrunk_lines(line: Callable[[int], Floats], size: tuple[int, int], out_LWD: Floats) -> None:
    """Write the grid of `size` (lines, features in each), of which `line` gives a line [W, D], into a smaller one."""
    lines, width = size
    above, below, down = _places(lines, out_LWD.shape[0])
    before, behind, across_W = _places(width, out_LWD.shape[1])
    right_W1, left_W1 = across_W[:, None], np.float32(1) - across_W[:, None]
    kept: dict[int, Floats] = {}
    for number, (upper, lower, share) in enumerate(zip(above.tolist(), below.tolist(), down, strict=True)):
        kept = {index: kept[index] for index in (upper, lower) if index in kept}
        for index in (upper, lower):
            if index not in kept:
                line_WD = line(index)
                kept[index] = line_WD[before] * left_W1 + line_WD[behind] * right_W1
        out_LWD[number] = kept[upper] * (np.float32(1) - share) + kept[lower] * share


def _places(length: int, shorter: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """For each output the inputs on both its sides, and the share of the second."""
    scale = np.float64(np.float32(length) / np.float32(shorter))
    places = np.maximum((scale * (np.arange(shorter) + 0.5) - 0.5).astype(np.float32), np.float32(0))
    first = np.minimum(places.astype(np.int64), length - 1)
    return first, np.minimum(first + 1, length - 1), places - first.astype(np.float32)
