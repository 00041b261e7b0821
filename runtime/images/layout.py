"""What each layout of images means: how one is cut, what it costs, how it is written, how its features are joined.

Enters: a layout of the manifest, and an image or its size. Leaves: arrays for the encoder, counts, text, features.
Nobody else asks which layout a model has: a new one is a case more in each function here (mypy says where).

    Fixed    <image>  →  <image><image>…                                         `tokens` times
    Rows     [IMG]    →  [IMG][IMG][IMG][IMG_BREAK][IMG][IMG][IMG][IMG_END]       2 rows of 3 patches
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pumice.errors import BundleError
from pumice.images.files import ImageInput
from pumice.images.preprocess import Pixels, Size, preprocess
from pumice.manifest import Fixed, ImageLayout, ImageProcessing, Rows


def cut(layout: ImageLayout, image: ImageInput, spec: ImageProcessing) -> tuple[Pixels, ...]:
    """The arrays that enter the encoder for one image, each float32 [3, height, width]: one, in both layouts.

    Raises:
        ImageError: the image cannot be read, or is too large or too thin.
        BundleError: the steps of `spec` do not make the size that the layout has.
    """
    if isinstance(layout, Fixed) and (known := spec.crop_to or spec.resize_to):
        _check_fixed(layout, known)  # before an image is made of a size that no memory holds
    (pixels_CHW,) = preprocess([image], spec)
    match layout:
        case Fixed():
            _check_fixed(layout, pixels_CHW.shape[1:])
            return (pixels_CHW,)
        case Rows():
            return (pixels_CHW,)


def _check_fixed(layout: Fixed, made: tuple[int, ...]) -> None:
    if made != layout.size:
        raise BundleError(
            f"manifest.image turns an image into {made[0]} × {made[1]}, "
            f"but image.size says {layout.size[0]} × {layout.size[1]}"
        )


def join(layout: ImageLayout, parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The features of one image, float32 [tokens, D], of those of its arrays, as `cut` has them in order."""
    match layout:
        case Fixed() | Rows():
            (features_TD,) = parts
            return features_TD


def common_size(layout: ImageLayout) -> Size | None:
    """The size of every image, which is known before one is opened; None where each has its own."""
    match layout:
        case Fixed(size=size):
            return size
        case Rows():
            return None


def is_size(layout: ImageLayout, size: object) -> bool:
    """Whether `size` is a (height, width) that images may have."""
    match layout:
        case Fixed():
            return size == layout.size
        case Rows(patch_size=patch):
            return (
                isinstance(size, tuple)
                and len(size) == 2
                and all(type(side) is int and side > 0 and side % patch == 0 for side in size)
            )


def sizes_text(layout: ImageLayout) -> str:
    """Which sizes `is_size` takes, for messages."""
    match layout:
        case Fixed(size=size):
            return str(size)
        case Rows(patch_size=patch):
            return f"(height, width) in multiples of {patch}"


def feature_count(layout: ImageLayout, size: Size) -> int:
    """Rows of image features that an image of `size` gives, and so image tokens in the ids."""
    match layout:
        case Fixed(tokens=tokens):
            return tokens
        case Rows():
            rows, columns = _patches(layout, size)
            return rows * columns


def token_count(layout: ImageLayout, size: Size) -> int:
    """All tokens that stand for an image of `size`, those between its rows included."""
    match layout:
        case Fixed(tokens=tokens):
            return tokens
        case Rows():
            rows, columns = _patches(layout, size)
            return rows * (columns + 1)


def image_text(layout: ImageLayout, token: str, size: Size) -> str:
    """The text that stands for an image of `size`, which tokenises into its tokens; `token` takes a feature each."""
    match layout:
        case Fixed(tokens=tokens):
            return token * tokens
        case Rows():
            rows, columns = _patches(layout, size)
            return layout.break_token.join([token * columns] * rows) + layout.end_token


def described(layout: ImageLayout) -> str:
    """One line for people: how large images are, and what they cost."""
    match layout:
        case Fixed(size=(height, width), tokens=tokens):
            return f"{width} × {height} pixels, {tokens} tokens each"
        case Rows(longest_edge=longest, patch_size=patch):
            return f"up to {longest} pixels a side, a token for {patch} × {patch} pixels and one for each row"


def _patches(layout: Rows, size: Size) -> tuple[int, int]:
    """(rows, columns) of an image's patches."""
    return size[0] // layout.patch_size, size[1] // layout.patch_size
