"""Resizing in two passes of a defined order, a band at a time: the same pixels with every Pillow, in little memory.

Enters: a decoded image of any mode, and how it is to be turned. Leaves: RGB of another size.

Pillow resizes along one axis, rounds to uint8, then along the other; which comes first tells in the last level of 1% of
the values. Up to version 12 rows came first always, since 13 the columns do where the height shrinks by more than
twice as many pixels as the width. That is the rule here, whichever Pillow does the passes: an image that is resized
along one axis alone has one pass in all of them.

The first pass takes rows (or columns) one by one, so that turning, transparency and the first pass are done in bands:
besides the decoded image there is never a second one of its size.

    decoded ─band─▶ turned ─▶ RGB ─first pass─▶ band of [h, W] ─┬─▶ [h, W] ─second pass─▶ [H, W]
            ─band─▶ …                                          ─┘
"""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

Turn = Image.Transpose | None

BAND = 1_000_000
"""Pixels of a band."""

_SWAPS = {
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
}
_FROM_RIGHT = {
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE,
}
"""Turns whose first row or column is taken from the decoded image's right, where the two run along each other."""
_FROM_BELOW = {
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
}

Box = tuple[int, int, int, int]
"""(left, upper, right, lower)."""


def turned_size(size: tuple[int, int], turn: Turn) -> tuple[int, int]:
    """(width, height) of an image after turning."""
    return (size[1], size[0]) if turn in _SWAPS else size


def columns_first(size: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether an image of (width, height) is resized along its columns first: as Pillow 13."""
    lost = size[1] - resized[1]
    return lost > 0 and lost > 2 * (size[0] - resized[0])


def resized_rgb(image: Image.Image, turn: Turn, resized: tuple[int, int], resample: int) -> Image.Image:
    """The image turned, made RGB and resized to (width, height)."""
    size, by = turned_size(image.size, turn), Image.Resampling(resample)
    if columns_first(size, resized):
        halfway = Image.new("RGB", (size[0], resized[1]))
        for box in _upright_bands(size):
            band = rgb_part(image, turn, box)
            halfway.paste(band.resize((band.width, resized[1]), by), (box[0], 0))
    else:
        halfway = Image.new("RGB", (resized[0], size[1]))
        for box in _lying_bands(size):
            band = rgb_part(image, turn, box)
            halfway.paste(band.resize((resized[0], band.height), by), (0, box[1]))
    return halfway.resize(resized, by)


def squared_rgb(
    image: Image.Image, turn: Turn, fill: tuple[int, int, int], resized: tuple[int, int], resample: int
) -> Image.Image:
    """The image turned, made RGB and in the middle of a square of the colour `fill`, resized to (width, height).

    The square is never there as a whole: lines of one colour stay so in a pass. An odd line goes below or right.
    """
    (width, height), by = turned_size(image.size, turn), Image.Resampling(resample)
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    halfway = Image.new("RGB", (resized[0], side), fill)
    for _, upper, _, lower in _lying_bands((side, height)):
        band = Image.new("RGB", (side, lower - upper), fill)
        band.paste(rgb_part(image, turn, (0, upper, width, lower)), (left, 0))
        halfway.paste(band.resize((resized[0], band.height), by), (0, top + upper))
    return halfway.resize(resized, by)


def rgb_part(image: Image.Image, turn: Turn, box: Box) -> Image.Image:
    """A part of the turned image in RGB, with anything transparent laid on white."""
    part = image.crop(_before(image.size, turn, box))
    return to_rgb(part if turn is None else part.transpose(turn))


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, with anything transparent laid on white: of each pixel by itself."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _lying_bands(size: tuple[int, int]) -> Iterator[Box]:
    """Whole rows, as many as make a band."""
    step = max(1, BAND // size[0])
    for top in range(0, size[1], step):
        yield 0, top, size[0], min(size[1], top + step)


def _upright_bands(size: tuple[int, int]) -> Iterator[Box]:
    """Whole columns, as many as make a band."""
    step = max(1, BAND // size[1])
    for left in range(0, size[0], step):
        yield left, 0, min(size[0], left + step), size[1]


def _before(size: tuple[int, int], turn: Turn, box: Box) -> Box:
    """Where a box of the turned image was before turning."""
    left, upper, right, lower = box if turn not in _SWAPS else (box[1], box[0], box[3], box[2])
    if turn in _FROM_RIGHT:
        left, right = size[0] - right, size[0] - left
    if turn in _FROM_BELOW:
        upper, lower = size[1] - lower, size[1] - upper
    return left, upper, right, lower
