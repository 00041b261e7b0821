"""Images in the manifest: how they are prepared, how they appear in a prompt, and the layout that both come to.

Enters: the manifest's `image` and `image_tokens`, whose fields are null where they do not apply. Leaves: one
`ImageLayout`, which says by its type what applies. This is the only place that looks at which fields are null; what
follows from a layout stands in `images/layout.py`.

    image.size, image_tokens.per_image                               ─▶ Fixed    every image is one size
    image.resize_longest_edge, .multiple_of; image_tokens.patch_size,
    .break_token, .end_token                                         ─▶ Rows     each keeps its aspect
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec

from pumice.errors import BundleError
from pumice.manifest.defaults import NonNegative, Positive


@dataclass(frozen=True, kw_only=True)
class ImageProcessing:
    """How an image becomes `pixel_values`: the steps in transformers' order, each skipped where it is null.

    `resize_shortest_edge` scales the shorter side to that many pixels; `resize_to` scales to (height, width) whatever
    the aspect; `resize_longest_edge` scales down what is longer, and then each side up to a multiple of `multiple_of`.
    `crop_to` is a centre crop to (height, width), padded with zeros where the image is smaller.
    `resample` is PIL's filter number. `mean` and `std` are per channel, on values already multiplied by
    `rescale_factor`.
    """

    convert_rgb: bool = True
    """Not a step: images always become RGB. Written for readers of earlier versions, which miss it otherwise."""
    resize_shortest_edge: Positive | None
    resize_to: tuple[Positive, Positive] | None
    resize_longest_edge: Positive | None = None
    multiple_of: Positive | None = None
    resample: Annotated[int, msgspec.Meta(ge=0, le=5)]
    crop_to: tuple[Positive, Positive] | None
    rescale_factor: float | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    size: tuple[Positive, Positive] | None
    """(height, width) of the `pixel_values` that the vision encoder takes; null where each image has its own."""


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """How images appear in a prompt: `token` stands for one image.

    It becomes `per_image` × `token_id`; or, where images vary in size, one `token_id` for each `patch_size` ×
    `patch_size` pixels, row by row, with `break_token` behind every row and `end_token` behind the last.
    """

    token: str
    token_id: NonNegative
    per_image: Positive | None
    patch_size: Positive | None = None
    break_token: str | None = None
    break_token_id: NonNegative | None = None
    end_token: str | None = None
    end_token_id: NonNegative | None = None

    @property
    def special_texts(self) -> tuple[str, ...]:
        """The special tokens that images consist of, as texts."""
        texts = (self.token, self.break_token, self.end_token)
        return tuple(text for text in texts if text is not None)


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Every image enters the vision encoder in one `size` (height, width), and has `tokens` image tokens."""

    size: tuple[int, int]
    tokens: int

    @property
    def most_tokens(self) -> int:
        """All tokens of the largest image."""
        return self.tokens

    @property
    def stackable(self) -> bool:
        """Whether several images may enter the encoder as one batch, without padding."""
        return True


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Images keep their aspect: rows of patches, `patch_size` pixels each way, of a token each.

    No side is longer than `longest_edge` before it is rounded up to whole patches. `break_token` stands behind every
    row, and `end_token` in its place behind the last.
    """

    longest_edge: int
    patch_size: int
    break_token: str
    end_token: str

    @property
    def most_tokens(self) -> int:
        """All tokens of the largest image, those between its rows included."""
        side = -(-self.longest_edge // self.patch_size)
        return side * (side + 1)

    @property
    def stackable(self) -> bool:
        """Whether several images may enter the encoder as one batch, without padding."""
        return False


ImageLayout: TypeAlias = "Fixed | Rows"


def layout_of(image: ImageProcessing, tokens: ImageTokens, where: str) -> ImageLayout:
    """The layout that the fields describe; `where` names the manifest in messages.

    Raises:
        BundleError: the fields are of no layout, or of two.
    """
    rows = (
        image.resize_longest_edge,
        image.multiple_of,
        tokens.patch_size,
        tokens.break_token,
        tokens.end_token,
    )
    match (image.size, tokens.per_image, *rows):
        case ((int(height), int(width)), int(per_image), None, None, None, None, None):
            return Fixed(size=(height, width), tokens=per_image)
        case (None, None, int(longest), int(), int(patch), str(between), str(end)):
            return Rows(longest_edge=longest, patch_size=patch, break_token=between, end_token=end)
    raise BundleError(
        f"{where} does not say how many tokens an image has: expected image.size and image_tokens.per_image, "
        "or image.resize_longest_edge, image.multiple_of and image_tokens.patch_size, .break_token and .end_token"
    )


def version_for(image: ImageProcessing) -> int:
    """The oldest schema version whose readers get images prepared like this right."""
    return 1 if image.size is not None else 2
