"""Images become the vision encoder's `pixel_values`, bit for bit as transformers' PIL image processors make them.

Enters: PIL images, and the manifest's `image`. Leaves: float32 [3, H, W] for each, and padded together [N, 3, H, W].

    RGB uint8 [h, w, 3] ─resize─▶ uint8 [h', w', 3] ─centre crop─▶ uint8 [H, W, 3] ─rescale, normalise─▶ float32 [3,
    H, W]"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pumice.errors import ImageError
from pumice.images.files import ImageInput, open_image
from pumice.images.resample import FILTERS, enlarge_window
from pumice.manifest import ImageProcessing

Bytes: TypeAlias = NDArray[np.uint8]
Pixels: TypeAlias = NDArray[np.float32]
"""One image as the vision encoder takes it, shape = (3, height, width)."""
Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""

_MAX_ENLARGED = 16_000_000
"""Pixels of a whole enlarged image above which only the part that the crop keeps is computed."""


def preprocess(images: Iterable[ImageInput], spec: ImageProcessing) -> Iterator[Pixels]:
    """Each image as float32 [3, height, width], as the steps of `spec` make it.

    An image is opened when it is asked for.

    Raises:
        ImageError: an image cannot be read, is too large or too thin, or has a colour mode that Pillow cannot turn
            into RGB.
    """
    table_CV = normalised_values(spec)
    for image in images:
        yield normalised(_resize_and_crop(open_rgb(image), spec), table_CV)


def open_rgb(image: ImageInput) -> Image.Image:
    """An image as RGB, with anything transparent laid on white; raises ImageError."""
    return _to_rgb(open_image(image))


def normalised(image_HWC: Bytes, table_CV: NDArray[np.float32]) -> Pixels:
    """Values by `normalised_values`, channels first."""
    pixels_CHW = np.empty((3, *image_HWC.shape[:2]), np.float32)
    for channel in range(3):
        np.take(table_CV[channel], image_HWC[..., channel], out=pixels_CHW[channel])
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


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB, with anything transparent laid on white."""
    try:
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, image).convert("RGB")
        return image.convert("RGB")
    except Exception:  # lazily opened files decode here, and may raise anything
        raise ImageError(f"an image of mode {image.mode} cannot be turned into RGB") from None


def _resize_and_crop(image: Image.Image, spec: ImageProcessing) -> Bytes:
    width, height = _resized_size(image.size, spec)
    rows = _kept(height, spec.crop_to[0]) if spec.crop_to else slice(0, height)
    columns = _kept(width, spec.crop_to[1]) if spec.crop_to else slice(0, width)
    if spec.resize_shortest_edge and width * height > max(_MAX_ENLARGED, image.width * image.height):
        if spec.resample not in FILTERS or not spec.crop_to:
            raise ImageError(f"an image of {image.width} × {image.height} is too long for its width")
        kept_HWC = enlarge_window(np.asarray(image), (height, width), rows, columns, spec.resample)
    else:
        kept_HWC = np.asarray(image.resize((width, height), spec.resample))[rows, columns]
    return _padded(kept_HWC, spec.crop_to) if spec.crop_to else kept_HWC


def _resized_size(size: tuple[int, int], spec: ImageProcessing) -> tuple[int, int]:
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


def _padded(kept_HWC: Bytes, crop: tuple[int, int]) -> Bytes:
    """Black borders around what is smaller than the crop; an odd one goes above and to the left."""
    if kept_HWC.shape[:2] == crop:
        return kept_HWC
    height, width = kept_HWC.shape[:2]
    top, left = -((height - crop[0]) // 2), -((width - crop[1]) // 2)
    padded_HWC = np.zeros((*crop, 3), np.uint8)
    padded_HWC[top : top + height, left : left + width] = kept_HWC
    return padded_HWC


def normalised_values(spec: ImageProcessing) -> NDArray[np.float32]:
    """What each of the 256 values of each channel becomes, shape = (3, 256).

    A table, because the arithmetic is the same for every pixel: rescaled in float64, rounded, normalised in float32.
    """
    values_V = np.arange(256, dtype=np.float64)
    if spec.rescale_factor is not None:
        values_V = values_V * spec.rescale_factor
    table_CV = np.tile(values_V.astype(np.float32), (3, 1))
    if spec.mean is not None and spec.std is not None:
        mean_C1 = np.array(spec.mean, np.float32).reshape(-1, 1)
        std_C1 = np.array(spec.std, np.float32).reshape(-1, 1)
        table_CV = (table_CV - mean_C1) / std_C1
    return table_CV
