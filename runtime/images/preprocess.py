"""Images become the vision encoder's `pixel_values`, bit for bit as transformers' PIL image processors make them.

Enters: images, and the manifest's `image`. Leaves: float32 [3, H, W] for each, and padded together [N, 3, H, W].

    RGB uint8 [h, w, 3] ─resize─▶ uint8 [h', w', 3] ─centre crop─▶ uint8 [H, W, 3] ─rescale, normalise─▶ float32
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pumice.errors import BundleError, ImageError
from pumice.images import tiles
from pumice.images.arrays import RGB, as_array, levels, rgb_values, unstretched
from pumice.images.files import MAX_PIXELS, ImageInput, check_array, decoded_image
from pumice.images.passes import Turn, resized_rgb, rgb_part, squared_rgb, turned_size
from pumice.images.resample import FILTERS, enlarge_window
from pumice.manifest import ImageProcessing, Squares, Tiles

RGB8: TypeAlias = NDArray[np.uint8]
"""Shape = (height, width, 3)."""
Pixels: TypeAlias = NDArray[np.float32]
"""One image as the vision encoder takes it, shape = (3, height, width)."""
Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""

_MAX_ENLARGED = 16_000_000
"""Pixels of a whole enlarged image above which only the part that the crop keeps is computed."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An image, decoded, which is prepared in more ways than one.

    `turn` is how it is to be turned, `stretched` whether it is an array of values that were stretched over 0 … 255.
    """

    image: Image.Image
    turn: Turn
    stretched: bool

    @property
    def size(self) -> Size:
        """After turning."""
        width, height = turned_size(self.image.size, self.turn)
        return height, width


def preprocess(images: Iterable[ImageInput | Opened], spec: ImageProcessing) -> Iterator[Pixels]:
    """Each image as float32 [3, height, width], as the steps of `spec` make it.

    An image is opened when it is asked for.

    Raises:
        ImageError: an image cannot be read, is too large or too thin, or has a colour mode that Pillow cannot turn
            into RGB.
    """
    tables = _tables(spec)
    for source in images:
        array = None if isinstance(source, Opened) else as_array(source)
        if array is not None and not _resizes(spec):
            yield _unresized(rgb_values(check_array(array)), spec)
            continue
        found = opened(source)
        yield _looked_up(_window(found.image, found.turn, spec), tables[found.stretched])


def tiled(source: ImageInput | Opened, layout: Tiles, spec: ImageProcessing) -> tuple[Pixels, Size]:
    """An image whole and in tiles, float32 [1 + tiles, 3, height, width], and its own size; raises as `preprocess`.

    Raises ImageError too where nothing is left of a thin image when its features are shrunk.
    """
    found = opened(source)
    if tiles.is_lost(layout, found.size):
        height, width = found.size
        raise ImageError(
            f"an image of {width} × {height} is too thin: nothing is left of its shrunk features"
        )

    def resize(size: Size) -> RGB8:
        return _resized(found.image, found.turn, (size[1], size[0]), spec.resample)

    table_CV = _tables(spec)[found.stretched]
    parts = [_looked_up(part_HWC, table_CV) for part_HWC in tiles.cut(layout, found.size, resize)]
    return np.stack(parts), found.size


def squared(source: ImageInput | Opened, layout: Squares, spec: ImageProcessing) -> tuple[Pixels, Size]:
    """An image within a square, float32 [1, 3, height, width], and its own size; raises as `preprocess`."""
    found, (height, width) = opened(source), layout.size
    with _convertible(found.image):
        square = squared_rgb(found.image, found.turn, layout.fill, (width, height), spec.resample)
    return _looked_up(np.asarray(square), _tables(spec)[found.stretched])[None], found.size


def opened(source: ImageInput | Opened) -> Opened:
    """An image, decoded; raises as `preprocess`."""
    if isinstance(source, Opened):
        return source
    array = as_array(source)
    if array is None:
        image, turn = decoded_image(source)
        return Opened(image=image, turn=turn, stretched=False)
    pixels_HWC, stretched = levels(rgb_values(check_array(array)))
    return Opened(image=Image.fromarray(pixels_HWC), turn=None, stretched=stretched)


def _tables(spec: ImageProcessing) -> dict[bool, NDArray[np.float32]]:
    """What the 256 levels become in each channel, [3, 256]: stretched ones, and others."""
    levels_V = np.arange(256, dtype=np.uint8)
    return {False: _normalised(levels_V, spec), True: _normalised(unstretched(levels_V), spec)}


def _looked_up(image_HWC: RGB8, table_CV: NDArray[np.float32]) -> Pixels:
    """Each level's value, channels first."""
    pixels_CHW = np.empty((3, *image_HWC.shape[:2]), np.float32)
    for channel, table_V in enumerate(table_CV):
        np.take(table_V, image_HWC[..., channel], out=pixels_CHW[channel])
    return pixels_CHW


def padded_together(images: Sequence[Pixels], size: Size | None = None) -> NDArray[np.float32]:
    """The images in one array, shape = (N, …, 3, *largest), with zeros behind, below and to the right of smaller ones.

    `size` is the least that an array has, which tells the shape where there is no image.
    """
    shapes = [image.shape for image in images] or [(3, *(size or (0, 0)))]
    largest = tuple(map(max, zip(*shapes, strict=True)))
    together = np.zeros((len(images), *largest), np.float32)
    for place, image in zip(together, images, strict=True):
        place[tuple(map(slice, image.shape))] = image
    return together


def _window(image: Image.Image, turn: Turn, spec: ImageProcessing) -> RGB8:
    """The image turned, resized and cropped."""
    size = turned_size(image.size, turn)
    width, height = resized_size(size, spec)
    rows = _kept(height, spec.crop_to[0]) if spec.crop_to else slice(0, height)
    columns = _kept(width, spec.crop_to[1]) if spec.crop_to else slice(0, width)
    enlarged = spec.resize_shortest_edge and width * height > max(_MAX_ENLARGED, size[0] * size[1])
    _check_result(*((width, height) if not enlarged else (0, 0)), spec)
    if enlarged:
        if spec.resample not in FILTERS or not spec.crop_to:
            raise ImageError(f"an image of {size[0]} × {size[1]} is too long for its width")
        with _convertible(image):
            pixels_HWC = np.asarray(rgb_part(image, turn, (0, 0, *size)))
        kept_HWC = enlarge_window(pixels_HWC, (height, width), rows, columns, spec.resample)
    else:
        kept_HWC = _resized(image, turn, (width, height), spec.resample)[rows, columns]
    return _padded(kept_HWC, spec.crop_to) if spec.crop_to else kept_HWC


def _resized(image: Image.Image, turn: Turn, resized: tuple[int, int], resample: int) -> RGB8:
    """The image turned and resized to (width, height)."""
    with _convertible(image):
        return np.asarray(resized_rgb(image, turn, resized, resample))


@contextmanager
def _convertible(image: Image.Image) -> Iterator[None]:
    try:
        yield
    except ValueError:  # what Pillow raises of a mode that it cannot convert
        raise ImageError(f"an image of mode {image.mode} cannot be turned into RGB") from None


def _check_result(width: int, height: int, spec: ImageProcessing) -> None:
    """Before anything is made: no bundle has images of this size, and no memory would hold them."""
    crop = spec.crop_to or (0, 0)
    for wide, high in ((width, height), (crop[1], crop[0])):
        if wide * high > MAX_PIXELS:
            raise BundleError(
                f"manifest.image makes images of {wide:,} × {high:,}: at most {MAX_PIXELS:,} pixels are made"
            )


def _resizes(spec: ImageProcessing) -> bool:
    return bool(spec.resize_shortest_edge or spec.resize_to or spec.resize_longest_edge)


def _unresized(values_HWC: RGB, spec: ImageProcessing) -> Pixels:
    """An array's values, which keep their type where nothing is resized: as transformers."""
    height, width = values_HWC.shape[:2]
    _check_result(width, height, spec)
    if spec.crop_to:
        rows, columns = _kept(height, spec.crop_to[0]), _kept(width, spec.crop_to[1])
        values_HWC = _padded(values_HWC[rows, columns], spec.crop_to)
    pixels_CHW = np.empty((3, *values_HWC.shape[:2]), np.float32)
    for channel in range(3):
        pixels_CHW[channel] = _normalised(values_HWC[..., channel], spec)[channel]
    return pixels_CHW


def resized_size(size: tuple[int, int], spec: ImageProcessing) -> tuple[int, int]:
    """(width, height) after resizing an image of (width, height)."""
    if spec.resize_to is not None:
        return spec.resize_to[1], spec.resize_to[0]
    if spec.resize_longest_edge is not None and spec.multiple_of is not None:
        return _within(size, spec.resize_longest_edge, spec.multiple_of)
    if spec.resize_shortest_edge is None:
        return size
    short, long = min(size), max(size)
    scaled = int(spec.resize_shortest_edge * long / short)  # not rounded: as transformers
    return (spec.resize_shortest_edge, scaled) if size[0] <= size[1] else (scaled, spec.resize_shortest_edge)


def _within(size: tuple[int, int], longest: int, multiple: int) -> tuple[int, int]:
    """(width, height) of an image that is scaled down to `longest`, then up to whole multiples on each side."""
    ratio = max(1.0, size[0] / longest, size[1] / longest)
    width, height = (math.ceil(math.floor(side / ratio) / multiple) * multiple for side in size)
    if not width or not height:  # transformers fails here too
        raise ImageError(
            f"an image of {size[0]} × {size[1]} is too thin: scaled down to {longest} pixels nothing is left of it"
        )
    return width, height


def _kept(length: int, crop: int) -> slice:
    """Which of `length` rows (or columns) a centre crop to `crop` keeps."""
    start = max(0, (length - crop) // 2)
    return slice(start, min(length, start + crop))


def _padded(kept_HWC: NDArray[Any], crop: tuple[int, int]) -> NDArray[Any]:
    """Black borders around what is smaller than the crop; an odd one goes above and to the left."""
    if kept_HWC.shape[:2] == crop:
        return kept_HWC
    height, width = kept_HWC.shape[:2]
    top, left = -((height - crop[0]) // 2), -((width - crop[1]) // 2)
    padded_HWC = np.zeros((*crop, 3), kept_HWC.dtype)
    padded_HWC[top : top + height, left : left + width] = kept_HWC
    return padded_HWC


def _normalised(values: NDArray[Any], spec: ImageProcessing) -> NDArray[np.float32]:
    """What values become in each channel, shape = (3, *values.shape).

    Rescaled in float64 and rounded to float32; normalised in float32, or in a floating type that they have still.
    """
    if spec.rescale_factor is not None:
        values = (values.astype(np.float64) * spec.rescale_factor).astype(np.float32)
    if values.dtype.kind != "f":
        values = values.astype(np.float32)
    if spec.mean is None or spec.std is None:
        return np.stack([values] * 3).astype(np.float32)
    mean_C, std_C = np.array(spec.mean, values.dtype), np.array(spec.std, values.dtype)
    channels = [(values - mean) / std for mean, std in zip(mean_C, std_C, strict=True)]
    return np.stack(channels).astype(np.float32)
