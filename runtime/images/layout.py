"""What an image is in a prompt: one placeholder in the text, many tokens in the ids.

Enters: the placeholders of a prompt and its images' sizes. Leaves: the text with every image's tokens in place.

    fixed    <image>  →  <image><image>…                                         per_image times
    varied   [IMG]    →  [IMG][IMG][IMG][IMG_BREAK][IMG][IMG][IMG][IMG_END]       2 rows of 3 patches
"""

from __future__ import annotations

from pumice.images.preprocess import Size
from pumice.manifest import ImageTokens


def feature_count(tokens: ImageTokens, size: Size) -> int:
    """Rows of image features that an image of `size` gives, and so image tokens in the ids."""
    if tokens.per_image is not None:
        return tokens.per_image
    rows, columns = _patches(tokens, size)
    return rows * columns


def token_count(tokens: ImageTokens, size: Size) -> int:
    """All tokens that stand for an image of `size`, those between its rows included."""
    if tokens.per_image is not None:
        return tokens.per_image
    rows, columns = _patches(tokens, size)
    return rows * (columns + 1)


def image_text(tokens: ImageTokens, size: Size) -> str:
    """The text that stands for an image of `size`, which tokenises into its tokens."""
    if tokens.per_image is not None:
        return tokens.token * tokens.per_image
    rows, columns = _patches(tokens, size)
    return (tokens.break_token or "").join([tokens.token * columns] * rows) + (tokens.end_token or "")


def _patches(tokens: ImageTokens, size: Size) -> tuple[int, int]:
    """(rows, columns) of an image's patches."""
    assert tokens.patch_size is not None  # the manifest was checked
    return size[0] // tokens.patch_size, size[1] // tokens.patch_size
