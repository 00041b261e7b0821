"""Images in the manifest: how they are prepared, how they appear in a prompt, and the layout that both come to.

Enters: the manifest's `image` and `image_tokens`, whose fields are null where they do not apply. Leaves: one
`ImageLayout`, which says by its type what applies. This is the only place that looks at which fields are null; what
follows from a layout stands in `images/layout.py`.

    image.size, image_tokens.per_image                               ─▶ Fixed    every image is one size
    image.resize_longest_edge, .multiple_of; image_tokens.patch_size,
    .break_token, .end_token                                         ─▶ Rows     each keeps its aspect
    image.size, image.tiles; image_tokens.per_image                  ─▶ Tiles    each is cut into tiles of one size
    image.tiles.square_fill                                          ─▶ Squares  within Tiles: of one beside others
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, TypeAlias

import msgspec

from pumice.errors import BundleError
from pumice.manifest.defaults import NonNegative, Positive

MOST_PINPOINTS = 256
SHRUNK_ABOVE = 1.1
"""How many times too long and too wide a grid is that is shrunk."""

Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


@dataclass(frozen=True, kw_only=True)
class TileGrids:
    """Where images are cut into tiles: `pinpoints` are the (height, width) that an image may be fitted into.

    Each is a multiple of `image.size`, which is a tile's. Before the tiles comes the whole image, in a tile's size.
    The last two are absent where they do not apply.
    """

    pinpoints: Annotated[
        tuple[tuple[Positive, Positive], ...], msgspec.Meta(min_length=1, max_length=MOST_PINPOINTS)
    ]
    shrink_to: Positive | msgspec.UnsetType = msgspec.UNSET
    """The features of a larger grid are made as many as those of so many tiles, about."""
    square_fill: tuple[Byte, Byte, Byte] | msgspec.UnsetType = msgspec.UNSET
    """Images of a prompt with several are not cut: each is made a square by borders of this colour, RGB."""


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
    tiles: TileGrids | msgspec.UnsetType = msgspec.UNSET
    """Since schema version 3: the image is cut into tiles of `size`. Absent where it is not."""


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
    merge_size: Positive | msgspec.UnsetType = msgspec.UNSET
    """Patches each way that the encoder makes one feature of (Mistral 3): plans of memory ask. Absent where it is 1."""

    @property
    def special_texts(self) -> tuple[str, ...]:
        """The special tokens that images consist of, as texts."""
        texts = (self.token, self.break_token, self.end_token)
        return tuple(text for text in texts if text is not None)


@dataclass(frozen=True, kw_only=True)
class _OneArray:
    """An image enters the vision encoder as one array of one `size` (height, width), and has `tokens` image tokens."""

    size: tuple[int, int]
    tokens: int

    @property
    def most_tokens(self) -> int:
        """All tokens of the largest image."""
        return self.tokens

    @property
    def most_rows(self) -> int:
        """Rows of features of the largest array that enters the encoder."""
        return self.tokens

    @property
    def most_arrays(self) -> int:
        """Arrays of one image that enter the encoder."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Fixed(_OneArray):
    """Every image enters the vision encoder in one `size` (height, width), and has `tokens` image tokens."""

    @property
    def stackable(self) -> bool:
        """Whether several images may enter the encoder as one batch, without padding."""
        return True


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Images keep their aspect: rows of patches, `patch_size` pixels each way, of a token each.

    No side is longer than `longest_edge` before it is rounded up to whole patches. `break_token` stands behind every
    row, and `end_token` in its place behind the last. What is a patch here are `merge` × `merge` in the encoder.
    """

    longest_edge: int
    patch_size: int
    break_token: str
    end_token: str
    merge: int = 1

    @property
    def most_tokens(self) -> int:
        """All tokens of the largest image, those between its rows included."""
        side = -(-self.longest_edge // self.patch_size)
        return side * (side + 1)

    @property
    def most_rows(self) -> int:
        """Rows of features of the largest array within the encoder, and of those between its rows."""
        return self.most_tokens * self.merge**2

    @property
    def most_arrays(self) -> int:
        """Arrays of one image that enter the encoder."""
        return 1

    @property
    def stackable(self) -> bool:
        """Whether several images may enter the encoder as one batch, without padding."""
        return False


@dataclass(frozen=True, kw_only=True)
class Squares(_OneArray):
    """An image is made a square by borders of the colour `fill`, and enters the encoder in one `size` (height, width).

    So are images beside others in a prompt of a LLaVA-OneVision, and have `tokens` image tokens each.
    """

    fill: tuple[int, int, int]

    @property
    def stackable(self) -> bool:
        """Whether several images may enter the encoder as one batch, without padding."""
        return False


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """An image enters the encoder whole in one `size` (height, width), and again in tiles of that size (LLaVA-NeXT).

    The tiles are of the image fitted into one of the `grids` (rows, columns). Each has `side` × `side` features, and
    a row of features that ends a line of a grid's: the encoder gives it behind each tile's. Larger grids are shrunk
    to about the features of `shrink_to` tiles. `beside` is the layout of an image that is not alone in its prompt,
    where that is another (LLaVA-OneVision).
    """

    size: tuple[int, int]
    side: int
    grids: tuple[tuple[int, int], ...]
    shrink_to: int | None = None
    beside: Squares | None = None

    @property
    def pinpoints(self) -> tuple[tuple[int, int], ...]:
        """(height, width) in pixels of each grid, in the order in which one is looked for."""
        height, width = self.size
        return tuple((rows * height, columns * width) for rows, columns in self.grids)

    def shrunk(self, lines: int, width: int) -> tuple[int, int]:
        """(lines, features in each) that are left of a grid without its borders."""
        if self.shrink_to is None:
            return lines, width
        ratio = math.sqrt(lines * width / (self.shrink_to * self.side**2))
        return (int(lines // ratio), int(width // ratio)) if ratio > SHRUNK_ABOVE else (lines, width)

    @cached_property
    def most_tokens(self) -> int:
        """No image has more tokens: those of a grid that is filled, or just not shrunk."""
        return self.side**2 + max(lines * (width + 1) for lines, width in self._fillings())

    def _fillings(self) -> Iterator[tuple[int, int]]:
        """(lines, features in each) of full grids; where they are shrunk, of those with borders too."""
        for rows, columns in self.grids:
            lines, width = rows * self.side, columns * self.side
            yield self.shrunk(lines, width)
            if self.shrink_to is not None:
                yield from (self.shrunk(lines - border, width) for border in range(2, lines + 1, 2))
                yield from (self.shrunk(lines, width - border) for border in range(2, width + 1, 2))

    @property
    def most_rows(self) -> int:
        """Rows of features of the largest array that enters the encoder."""
        return self.side**2 + 1

    @property
    def most_arrays(self) -> int:
        """Arrays of one image that enter the encoder: the whole, and the tiles of the largest grid."""
        return 1 + max(rows * columns for rows, columns in self.grids)

    @property
    def stackable(self) -> bool:
        """Whether several images may enter the encoder as one batch, without padding."""
        return False


ImageLayout: TypeAlias = "Fixed | Rows | Tiles | Squares"


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
    match (image.size, tokens.per_image, image.tiles, *rows):
        case ((int(height), int(width)), int(per_image), msgspec.UNSET, None, None, None, None, None):
            return Fixed(size=(height, width), tokens=per_image)
        case (None, None, msgspec.UNSET, int(longest), int(), int(patch), str(between), str(end)):
            merge = 1 if tokens.merge_size is msgspec.UNSET else tokens.merge_size
            return Rows(
                longest_edge=longest, patch_size=patch, break_token=between, end_token=end, merge=merge
            )
        case ((int(height), int(width)), int(per_image), TileGrids() as tiles, None, None, None, None, None):
            return _tiles((height, width), per_image, tiles, where)
    raise BundleError(
        f"{where} does not say how many tokens an image has: expected image.size and image_tokens.per_image, "
        "or image.resize_longest_edge, image.multiple_of and image_tokens.patch_size, .break_token and .end_token"
    )


def _tiles(size: tuple[int, int], per_image: int, tiles: TileGrids, where: str) -> Tiles:
    height, width = size
    side = math.isqrt(per_image)
    uneven = [pinpoint for pinpoint in tiles.pinpoints if pinpoint[0] % height or pinpoint[1] % width]
    if side**2 != per_image or uneven:
        raise BundleError(
            f"{where} has tiles of {height} × {width} pixels and {per_image} features, and pinpoints {list(uneven)}: "
            "expected a square number of features, and pinpoints that are multiples of a tile"
        )
    grids = tuple((rows // height, columns // width) for rows, columns in tiles.pinpoints)
    fill, shrink_to = tiles.square_fill, tiles.shrink_to
    return Tiles(
        size=size,
        side=side,
        grids=grids,
        shrink_to=None if shrink_to is msgspec.UNSET else shrink_to,
        beside=None if fill is msgspec.UNSET else Squares(size=size, tokens=side**2 + 1, fill=fill),
    )


def version_for(image: ImageProcessing) -> int:
    """The oldest schema version whose readers get images prepared like this right."""
    if image.tiles is not msgspec.UNSET:
        return 3
    return 1 if image.size is not None else 2
