"""An image from anywhere becomes a decoded PIL image, and how it is to be turned.

Enters: a path, encoded bytes, a `data:` URI, base64, a PIL image, or an array. Leaves: a decoded PIL image in its own
mode (`passes.py` turns it and makes it RGB). Encoded images are turned upright by their EXIF orientation; PIL images
and arrays are taken as they are. docs/images.md has the rule for every mode and format.

Limits hold before any pixel is decoded. Decoders' own messages are never passed on: they may tell of addresses and
paths.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from pumice.errors import ImageError
from pumice.images.addresses import image_address, shown
from pumice.images.arrays import SupportsArray, as_array, levels, rgb_values
from pumice.images.formats import other_format
from pumice.images.passes import Turn, turned_size
from pumice.machine.memory import available_memory
from pumice.manifest.regular_file import named

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | SupportsArray"

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
MAX_SIDE = 65_535
"""As much as a JPEG can be long; Pillow keeps a pointer for every row, so that thin images cost more than their
pixels."""

MAX_PHOTO_BYTES = 64 * 2**20
MAX_PHOTO_PIXELS = 120_000_000
"""Of a photo, which is a baseline JPEG: phones make them of 108 million pixels."""
PIXELS_PER_BYTE = 16
"""A file that promises more is no camera's, but a bomb, or an empty page."""
BYTES_PER_PIXEL = 4
"""What a decoded image takes, in every mode at most."""

_JPEG = b"\xff\xd8"
_UNREADABLE = "cannot be read: expected an undamaged JPEG, PNG, WebP or GIF"
_TURNS: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation."""
_ORIENTATION = 0x0112


def image_list(images: Any) -> list[ImageInput]:
    """A list of images, given as one, as a list, as lists of lists, as batches [N, …] of four axes, or as None."""
    return [] if images is None else list(_each(images, depth=0))


def _each(images: Any, depth: int) -> Iterator[ImageInput]:
    if isinstance(images, (list, tuple)) and depth < 2:
        for image in images:
            yield from _each(image, depth + 1)
    elif getattr(images, "ndim", None) == 4 and isinstance(images, SupportsArray) and images.shape[0]:
        yield from (images[i] for i in range(images.shape[0]))
    else:
        yield images


def open_image(source: ImageInput) -> Image.Image:
    """Open and check one image, and turn it upright. Raises as `decoded_image`; of arrays, as `levels` too."""
    array = as_array(source)
    if array is not None:
        return Image.fromarray(levels(rgb_values(check_array(array)))[0])
    image, turn = decoded_image(source)
    return image if turn is None else image.transpose(turn)


def decoded_image(source: ImageInput) -> tuple[Image.Image, Turn]:
    """One image, decoded; and how it is to be turned.

    Raises:
        ImageError: not an image, damaged, a format other than `FORMATS`, larger than the limits above, a remote
            address, or a Python object of another kind.
    """
    if isinstance(source, Image.Image):
        return _loaded(source), None
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "the image")
    if isinstance(source, str):
        found = image_address(source)
        if isinstance(found, bytes):
            return _decode(found, "the image in the text")
        return _decode(_read(named(found)), f"the image {shown(source)}")
    if isinstance(source, os.PathLike):
        path = named(Path(os.fsdecode(source)))
        return _decode(_read(path), f"the image {shown(path)}")
    raise ImageError(
        f"an image was given as {type(source).__name__}, "
        "expected a path, bytes, a data URI, base64, a PIL image or an array"
    )


def check_array(array: np.ndarray) -> np.ndarray:
    """The array, where it is of no more pixels than an image may have."""
    if array.ndim == 3:
        first = array.shape[0] in (1, 3, 4)
        height, width = array.shape[1:] if first else array.shape[:2]
    elif array.ndim == 2:
        height, width = array.shape
    else:
        return array  # refused for its shape
    if array.size:
        _check_size(width, height, MAX_PIXELS)
    return array


def _loaded(image: Image.Image) -> Image.Image:
    """A PIL image, which may be opened and not read yet."""
    undecoded = bool(getattr(image, "tile", None))
    _check_size(*image.size, _most_pixels(image, MAX_PHOTO_BYTES) if undecoded else MAX_PHOTO_PIXELS)
    try:
        image.load()
    except Exception as error:  # a decoder may raise anything on damaged data
        closed = isinstance(error, ValueError) or getattr(image, "fp", image) is None
        raise ImageError(
            "an image was given as a PIL image that is closed: give it before, or load() it while its file is open"
            if closed
            else "an image was given as a PIL image whose file is cut off or damaged"
        ) from None
    return image


def _read(path: Path) -> bytes:
    """The bytes of a regular file that is not too large; pipes and devices could block or never end."""
    name = shown(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"the image {name} is not a file")
        with path.open("rb") as file:
            head = file.read(len(_JPEG))
            _check_bytes(status.st_size, head)
            return head + file.read(MAX_PHOTO_BYTES)
    except FileNotFoundError:
        raise ImageError(f"there is no image {name}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ImageError(
                f"the image {name} is neither a path, which would be too long, nor base64"
            ) from None
        raise ImageError(f"the image {name} cannot be opened: {error.strerror}") from None
    except UnicodeEncodeError:
        raise ImageError("an image's path is not valid Unicode: it has a lone surrogate") from None
    except ValueError:
        raise ImageError("an image's path contains a zero byte") from None


def _decode(data: bytes, name: str) -> tuple[Image.Image, Turn]:
    with _readable(data, name):
        image = _undecoded(data)
        image.load()
        return image, _turn(image)


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) of an encoded image, turned upright, by its head: no pixel is decoded.

    A PNG whose orientation stands behind its pixels is not turned.

    Raises:
        ImageError: as `decoded_image`, but for damage behind the head.
    """
    with _readable(data, "the image"):
        image = _undecoded(data)
        looked = (
            image.format == "PNG" and "exif" not in image.info
        )  # Pillow decodes one to find it at the end
        return turned_size(image.size, None if looked else _turn(image))


def _undecoded(data: bytes) -> Image.Image:
    """An image of which the head is read, and found to be within the limits."""
    _check_bytes(len(data), data)
    # Pillow's own limit on pixels, which is a warning and for the whole process, is in Image.open alone.
    photo = JpegImageFile(BytesIO(data)) if data.startswith(_JPEG) else None
    image = photo or Image.open(BytesIO(data), formats=FORMATS)
    _check_size(*image.size, _most_pixels(image, len(data)))
    return image


def _turn(image: Image.Image) -> Turn:
    return _TURNS.get(image.getexif().get(_ORIENTATION, 1))


@contextmanager
def _readable(data: bytes, name: str) -> Iterator[None]:
    """Whatever a decoder says of `data`, as an `ImageError` of ours."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name} is too large: at most {MAX_PIXELS:,} pixels are accepted") from None
    except Exception:  # a decoder may raise anything on damaged data
        if other := other_format(data):
            raise ImageError(f"{name} is {other}, expected JPEG, PNG, WebP or GIF: convert it") from None
        raise ImageError(f"{name} {_UNREADABLE}") from None


def _most_pixels(image: Image.Image, size: int) -> int:
    """Pixels that a file of `size` bytes may decode to: more for a photo, if there is memory for them."""
    pixels = image.width * image.height
    photo = (
        image.format in ("JPEG", "MPO")
        and "progressive" not in image.info
        and pixels <= size * PIXELS_PER_BYTE
    )
    if pixels <= MAX_PIXELS or not photo:
        return MAX_PIXELS
    left = available_memory()
    if pixels <= MAX_PHOTO_PIXELS and left is not None and pixels * BYTES_PER_PIXEL > left:
        raise ImageError(
            f"an image of {image.width} × {image.height} needs {pixels * BYTES_PER_PIXEL // 10**6:,} MB, "
            f"but {left // 10**6:,} MB of memory are left: make it smaller"
        )
    return MAX_PHOTO_PIXELS


def _check_bytes(size: int, head: bytes) -> None:
    most = MAX_PHOTO_BYTES if head.startswith(_JPEG) else MAX_BYTES
    if size > most:
        raise ImageError(f"an image of {size:,} bytes is too large: at most {most:,} are accepted")


def _check_size(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise ImageError(f"an image of {width} × {height} is too large: at most {most:,} pixels are accepted")
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            f"an image of {width} × {height} is too long: at most {MAX_SIDE:,} pixels a side are accepted"
        )
    if width == 0 or height == 0:
        raise ImageError(f"an image of {width} × {height} is empty")
