"""How what enters the graphs differs from what transformers' processor makes: in words, which should never be needed.

Enters: our `Prepared` and transformers' `Inputs` of one prompt. Leaves: sentences, none where both are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from pumice import Prepared
from pumice.export.verify.reference import Inputs


@dataclass(frozen=True, kw_only=True)
class Differences:
    """What is said of token ids, and of pixel values; bit-equal inputs have neither."""

    ids: tuple[str, ...]
    pixels: tuple[str, ...]


def differences(ours: Prepared, theirs: Inputs) -> Differences:
    """Compare token ids and pixel values of every image and video, with the sizes of images and of their padding."""
    return Differences(ids=_ids(ours, theirs), pixels=_pixels(ours, theirs))


def _ids(ours: Prepared, theirs: Inputs) -> tuple[str, ...]:
    rows = ours.input_ids[0].tolist(), theirs.input_ids[0].tolist()
    pairs = enumerate(zip_longest(*rows))
    first = next(((place, mine, other) for place, (mine, other) in pairs if mine != other), None)
    if first is None:
        return ()
    place, mine, other = first
    return (
        f"token ids differ from position {place} (ours {_id(mine)}, transformers' {_id(other)}); "
        f"{len(rows[0])} tokens, transformers' {len(rows[1])}",
    )


def _id(number: int | None) -> str:
    return "none" if number is None else str(number)


def _pixels(ours: Prepared, theirs: Inputs) -> tuple[str, ...]:
    if len(ours.pixel_arrays) != len(theirs.images):
        return (f"{len(ours.pixel_arrays)} images, transformers' {len(theirs.images)}",)
    said = []
    for number, (mine, other) in enumerate(zip(ours.pixel_arrays, theirs.images, strict=True), 1):
        if mine.shape != other.shape:
            said.append(f"image {number} has shape {list(mine.shape)}, transformers' {list(other.shape)}")
        elif not np.array_equal(mine, other):
            error = np.abs(mine - other)
            said.append(
                f"image {number}: {np.count_nonzero(error):,} of {error.size:,} pixel values differ, "
                f"by at most {error.max():.1e}"
            )
    if len(ours.video_arrays) != len(theirs.videos):
        said.append(f"{len(ours.video_arrays)} videos, transformers' {len(theirs.videos)}")
    for number, (mine, other) in enumerate(zip(ours.video_arrays, theirs.videos, strict=False), 1):
        if not np.array_equal(mine, other):
            said.append(f"video {number} has other pixel values, or another shape, than transformers'")
    if theirs.pixel_values is not None and not said:
        shapes = list(ours.pixel_values.shape), list(theirs.pixel_values.shape)
        if shapes[0] != shapes[1]:
            said.append(f"pixel_values has shape {shapes[0]}, transformers' {shapes[1]}")
    return tuple(said)
