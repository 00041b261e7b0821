"""10,000 random images of each kind, and random pinpoints: which grid, how large in it, how many arrays and tokens.

Oracle: transformers' functions. Tolerance: none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from pumice.images import tiles
from pumice.images.layout import feature_count, token_count
from tests.runtime.images import test_squares, test_tiles

COUNT = 10_000
LONGEST = 4000


def drawn(seed: int) -> Iterator[tuple[tuple[int, int], list[list[int]], int, int, int]]:
    """(height, width), pinpoints, a tile's side in pixels and in features, and how many tiles' features are kept.

    A third of the images is near a pinpoint, and a third is long and thin.
    """
    generator = np.random.default_rng(seed)
    for number in range(COUNT):
        side, patch = (int(n) for n in generator.integers(1, 28, 2))
        tile = side * patch
        pinpoints = (tile * generator.integers(1, 7, (int(generator.integers(1, 12)), 2))).tolist()
        size = generator.integers(1, LONGEST, 2)
        if number % 3 == 1:
            size = np.maximum(1, pinpoints[number % len(pinpoints)] + generator.integers(-2, 3, 2))
        elif number % 3 == 2:
            size[number % 2] = generator.integers(1, 12)
        yield (int(size[0]), int(size[1])), pinpoints, tile, side, int(generator.integers(1, 10))


def check_grid(made: Any, size: tuple[int, int], pinpoints: list[list[int]], tile: int) -> None:
    rows, columns = tiles.grid_of(made, size)
    height, width = select_best_resolution(size, pinpoints)
    assert (rows * tile, columns * tile) == (height, width)
    fitted = get_patch_output_size(np.empty((*size, 0), np.uint8), (height, width), "channels_last")
    assert tiles._scaled(size, (height, width)) == fitted
    assert 1 + rows * columns == image_size_to_num_patches(size, pinpoints, tile) <= made.most_arrays


def test_llava_next() -> None:
    for size, pinpoints, tile, side, _ in drawn(0):
        made = test_tiles.layout(pinpoints, tile, side)
        check_grid(made, size, pinpoints, tile)
        expected = test_tiles.counted(size, pinpoints, tile, side)
        assert feature_count(made, size) == token_count(made, size) == expected <= made.most_tokens


def test_llava_onevision() -> None:
    for size, pinpoints, tile, side, shrink_to in drawn(1):
        made = test_squares.layout(pinpoints, tile, side, shrink_to)
        check_grid(made, size, pinpoints, tile)
        expected = test_squares.counted(size, pinpoints, tile, side, shrink_to)
        assert feature_count(made, size) == token_count(made, size) == expected <= made.most_tokens
