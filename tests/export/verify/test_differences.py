"""What is said of inputs that differ, and that nothing is said of equal ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pumice.export.verify.differences import differences
from pumice.export.verify.reference import Inputs
from pumice.images.prepared import PreparedImage
from pumice.prompt.prepared import Prepared

LARGE, SMALL = np.ones((3, 4, 6), np.float32), np.full((3, 4, 2), 0.5, np.float32)


def ours(**changes: Any) -> Prepared:
    same: dict[str, Any] = {"ids": [1, 2, 3], "images": (LARGE, SMALL)}
    chosen = same | changes
    ids = np.array([chosen["ids"]], np.int64)
    images = tuple(
        PreparedImage(values=values, size=values.shape[1:], digest=bytes(32), tokens=1)
        for values in chosen["images"]
    )
    return Prepared(input_ids=ids, images=images, image_tokens=2, size=None)


def theirs() -> Inputs:
    padded = np.zeros((2, 3, 4, 6), np.float32)
    padded[0], padded[1, :, :, :2] = LARGE, SMALL
    ids, sizes = np.array([[1, 2, 3]], np.int64), np.array([[4, 6], [4, 2]], np.int64)
    return Inputs(input_ids=ids, pixel_values=padded, image_sizes=sizes)


def test_equal_inputs() -> None:
    found = differences(ours(), theirs())
    assert (found.ids, found.pixels) == ((), ())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"ids": [1, 5, 3]},
            "token ids differ from position 1 (ours 5, transformers' 2); 3 tokens, transformers' 3",
        ),
        ({"ids": [1, 2]}, "differ from position 2 (ours none, transformers' 3); 2 tokens, transformers' 3"),
        ({"ids": [1, 2, 3, 4]}, "differ from position 3 (ours 4, transformers' none)"),
        ({"images": (LARGE,)}, "1 images, transformers' 2"),
        ({"images": (LARGE, LARGE)}, "image 2 has shape [3, 4, 6], transformers' [3, 4, 2]"),
        ({"images": (LARGE, SMALL + 1)}, "image 2: 24 of 24 pixel values differ, by at most 1.0e+00"),
    ],
)
def test_what_is_said(changes: dict[str, Any], told: str) -> None:
    found = differences(ours(**changes), theirs())
    (said,) = found.ids + found.pixels
    assert told in said
