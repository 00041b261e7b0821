"""What each layout of images means: how one is cut, what it costs, how it is written, how its features are joined.

Enters: a layout of the manifest, and an image or its size. Leaves: arrays for the encoder, counts, text, features.
Nobody else asks which layout a model has: a new one is a case more in each function here (mypy says where).

    Fixed    <image>  →  <image><image>…                                         `tokens` times
    Rows     [IMG]    →  [IMG][IMG][IMG][IMG_BREAK][IMG][IMG][IMG][IMG_END]       2 rows of 3 patches
    Tiles    <image>  →  <image><image>…           as many as `images/tiles.py` counts for the image's own size
    Squares  <image>  →  <image><image>…                                         `tokens` times
    Clip     <video>  →  <video><video>…           of a video: `per_frame` for each frame, and one for a newline
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pumice.errors import BundleError
from pumice.images import clips, tiles
from pumice.images.files import ImageInput
from pumice.images.preprocess import Opened, Pixels, Size, preprocess, resized_size, squared, tiled
from pumice.manifest import (
    MOST_FRAMES,
    Clip,
    Fixed,
    ImageLayout,
    ImageProcessing,
    Manifest,
    Rows,
    Squares,
    Tiles,
)

Layout: TypeAlias = "ImageLayout | Clip"
"""Of an image, or of a video."""


def among(layout: ImageLayout, *, alone: bool) -> ImageLayout:
    """The layout of an image that is the only one of its prompt, or of one beside others, in a model of `layout`."""
    match layout:
        case Tiles(beside=Squares() as beside) if not alone:
            return beside
        case _:
            return layout


def cut(layout: ImageLayout, image: ImageInput | Opened, spec: ImageProcessing) -> tuple[Pixels, Size]:
    """What enters the encoder for one image, and the image's size, by which its tokens are counted.

    float32 [3, height, width], of which the size is that; with tiles [1 + tiles, 3, height, width], and the size is
    the image's own; with squares [1, 3, height, width], and the size is the image's own too.

    Raises:
        ImageError: the image cannot be read, or is too large or too thin.
        BundleError: the steps of `spec` do not make the size that the layout has.
    """
    match layout:
        case Tiles():
            return tiled(image, layout, spec)
        case Squares():
            return squared(image, layout, spec)
        case Rows():
            (pixels_CHW,) = preprocess([image], spec)
        case Fixed():
            if known := spec.crop_to or spec.resize_to:
                _check_fixed(layout, known)  # before an image is made of a size that no memory holds
            (pixels_CHW,) = preprocess([image], spec)
            _check_fixed(layout, pixels_CHW.shape[1:])
    return pixels_CHW, pixels_CHW.shape[1:]


def _check_fixed(layout: Fixed, made: tuple[int, ...]) -> None:
    if made != layout.size:
        raise BundleError(
            f"manifest.image turns an image into {made[0]} × {made[1]}, "
            f"but image.size says {layout.size[0]} × {layout.size[1]}"
        )


def is_shape(layout: Layout, shape: tuple[int, ...], size: Size) -> bool:
    """Whether `cut` makes arrays of this shape for an image of `size`, which `is_size` takes."""
    match layout:
        case Fixed() | Rows():
            return shape == (3, *size)
        case Tiles():
            rows, columns = tiles.grid_of(layout, size)
            return shape == (1 + rows * columns, 3, *layout.size)
        case Squares():
            return shape == (1, 3, *layout.size)
        case Clip(frames=frames):
            return shape == (frames, 3, *layout.size)


def arrays(values: Pixels) -> tuple[Pixels, ...]:
    """What enters the encoder for one image, array by array, each [3, height, width]."""
    return (values,) if values.ndim == 3 else tuple(values)


def kept(layout: Layout, features_TD: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `join` takes of the encoder's features of one array: all, but of a video's frames few."""
    return clips.kept(layout, features_TD) if isinstance(layout, Clip) else features_TD


def join(layout: Layout, size: Size, parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The features of one image of `size`, float32 [tokens, D], of those `kept` of its `arrays` in order."""
    match layout:
        case Fixed() | Rows() | Squares():
            (features_TD,) = parts
            return features_TD
        case Tiles():
            return tiles.join(layout, size, parts)
        case Clip():
            return clips.join(layout, parts)


def size_of(layout: ImageLayout, size: Size, spec: ImageProcessing) -> Size:
    """The size by which the tokens of an image are counted, before it is cut; `size` is its own, turned upright.

    Raises:
        ImageError: it is too thin.
    """
    match layout:
        case Fixed():
            return layout.size
        case Rows():
            width, height = resized_size((size[1], size[0]), spec)
            return spec.crop_to or (height, width)
        case Tiles() | Squares():
            return size


def common_size(layout: ImageLayout) -> Size | None:
    """The size of every image, which is known before one is opened; None where each has its own."""
    match layout:
        case Fixed(size=size):
            return size
        case Rows() | Tiles() | Squares():
            return None


def is_size(layout: Layout, size: object) -> bool:
    """Whether `size` is a (height, width) that images may have."""
    match layout:
        case Fixed() | Clip():
            return size == layout.size
        case Rows(patch_size=patch):
            return (
                isinstance(size, tuple)
                and len(size) == 2
                and all(type(side) is int and side > 0 and side % patch == 0 for side in size)
            )
        case Tiles() | Squares():
            return (
                isinstance(size, tuple)
                and len(size) == 2
                and all(type(side) is int and side > 0 for side in size)
            )


def sizes_text(layout: Layout) -> str:
    """Which sizes `is_size` takes, for messages."""
    match layout:
        case Fixed(size=size) | Clip(size=size):
            return str(size)
        case Rows(patch_size=patch):
            return f"(height, width) in multiples of {patch}"
        case Tiles() | Squares():
            return "(height, width)"


def feature_count(layout: Layout, size: Size) -> int:
    """Rows of image features that an image of `size` gives, and so image tokens in the ids."""
    match layout:
        case Fixed(tokens=tokens) | Squares(tokens=tokens):
            return tokens
        case Clip():
            return layout.tokens
        case Rows():
            rows, columns = _patches(layout, size)
            return rows * columns
        case Tiles():
            return tiles.feature_count(layout, size)


def token_count(layout: Layout, size: Size) -> int:
    """All tokens that stand for an image of `size`, those between its rows included."""
    match layout:
        case Fixed(tokens=tokens) | Squares(tokens=tokens):
            return tokens
        case Clip():
            return layout.tokens
        case Rows():
            rows, columns = _patches(layout, size)
            return rows * (columns + 1)
        case Tiles():
            return tiles.feature_count(layout, size)


def image_text(layout: Layout, token: str, size: Size) -> str:
    """The text that stands for an image of `size`, which tokenises into its tokens; `token` takes a feature each."""
    match layout:
        case Fixed(tokens=tokens) | Squares(tokens=tokens):
            return token * tokens
        case Clip():
            return token * layout.tokens
        case Rows():
            rows, columns = _patches(layout, size)
            return layout.break_token.join([token * columns] * rows) + layout.end_token
        case Tiles():
            return token * tiles.feature_count(layout, size)


def described(layout: ImageLayout) -> str:
    """One line for people: how large images are, and what they cost."""
    match layout:
        case Fixed(size=(height, width), tokens=tokens):
            return f"{width} × {height} pixels, {tokens} tokens each"
        case Rows(longest_edge=longest, patch_size=patch):
            return f"up to {longest} pixels a side, a token for {patch} × {patch} pixels and one for each row"
        case Tiles(size=(height, width), side=side, grids=grids):
            most = max(rows * columns for rows, columns in grids)
            beside = "" if layout.beside is None else f"; {layout.beside.tokens:,} tokens each beside others"
            return (
                f"whole and in up to {most} tiles of {width} × {height} pixels, "
                f"{side**2:,} to {layout.most_tokens:,} tokens each{beside}"
            )
        case Squares(size=(height, width), tokens=tokens):
            return f"within a square of {width} × {height} pixels, {tokens} tokens each"


def frames_described(manifest: Manifest) -> str:
    """One line for people: what the videos of a model that takes some cost, and how many frames fit its context."""
    one, context = manifest.clip(1), manifest.decoder.context_length
    fitting = min(MOST_FRAMES, max(0, context - one.newline - 1) // one.per_frame)
    newline = " and one at the end" if one.newline else ""
    return f"{one.per_frame} tokens a frame{newline}, up to {fitting} frames"


def _patches(layout: Rows, size: Size) -> tuple[int, int]:
    """(rows, columns) of an image's patches."""
    return size[0] // layout.patch_size, size[1] // layout.patch_size
