"""An image from anywhere becomes an upright PIL image.

Enters: a path, encoded bytes, a `data:` URI, a PIL image, or a uint8 array. Leaves: a decoded PIL image in its own
mode (`preprocess.py` makes it RGB). Encoded images are turned upright by their EXIF orientation; PIL images and
arrays are taken as they are. docs/images.md has the rule for every mode and format.

Limits hold before any pixel is decoded. Decoders' own messages are never passed on: they may tell of addresses and
paths.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from pumice.errors import ImageError
from pumice.manifest.regular_file import named

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
MAX_SIDE = 65_535
"""As much as a JPEG can be long; Pillow keeps a pointer for every row, so that thin images cost more than their
pixels."""

_UNREADABLE = "cannot be read: expected an undamaged JPEG, PNG, WebP or GIF"


def image_list(images: Any) -> list[ImageInput]:
    """A list of images, given as a list or tuple, as one, or as None."""
    if images is None:
        return []
    return list(images) if isinstance(images, (list, tuple)) else [images]


def open_image(source: ImageInput) -> Image.Image:
    """Open and check one image.

    Raises:
        ImageError: not an image, damaged, a format other than `FORMATS`, larger than `MAX_BYTES`, `MAX_PIXELS` or
        `MAX_SIDE`,
            a remote address, or a Python object of another kind.
    """
    if isinstance(source, Image.Image):
        return _check_size(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes):
        return _decode(source, "the image")
    if isinstance(source, str) and source.startswith("data:"):
        return _decode(_data_uri(source), "the image of the data URI")
    if isinstance(source, str) and (scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", source)):
        raise ImageError(
            f"remote images are not fetched ({scheme[0]}…): download it and pass a file or its bytes"
        )
    if isinstance(source, (str, os.PathLike)):
        return _decode(_read(named(source)), f"the image {os.fspath(source)!r}")
    raise ImageError(
        f"an image was given as {type(source).__name__}, "
        "expected a path, bytes, a data URI, a PIL image or a uint8 array"
    )


def _read(path: Path) -> bytes:
    """The bytes of a regular file that is not too large; pipes and devices could block or never end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"the image {str(path)!r} is not a file")
        _check_bytes(status.st_size)
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"there is no image {str(path)!r}") from None
    except OSError as error:
        raise ImageError(f"the image {str(path)!r} cannot be opened: {error.strerror}") from None
    except ValueError:
        raise ImageError("an image's path contains a zero byte") from None


def _data_uri(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or not re.fullmatch(r"data:image/[\w.+-]+(;[\w=.-]+)*;base64", head):
        raise ImageError("expected a data URI of the form data:image/png;base64,…")
    _check_bytes(len(body) * 3 // 4 - 2)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("the data URI is not valid base64") from None


def _decode(data: bytes, name: str) -> Image.Image:
    _check_bytes(len(data))
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        _check_size(image)
        image.load()
        return ImageOps.exif_transpose(image)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name} is too large: at most {MAX_PIXELS:,} pixels are accepted") from None
    except Exception:  # a decoder may raise anything on damaged data
        raise ImageError(f"{name} {_UNREADABLE}") from None


def _from_array(array: np.ndarray) -> Image.Image:
    """An array of uint8 [height, width, 3] or [height, width]."""
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"an image was given as an array of {array.dtype} {list(array.shape)}, "
            "expected uint8 [height, width, 3] or [height, width]"
        )
    if array.size == 0:
        raise ImageError(f"an image was given as an empty array {list(array.shape)}")
    return _check_size(Image.fromarray(array))


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(f"an image of {size:,} bytes is too large: at most {MAX_BYTES:,} are accepted")


def _check_size(image: Image.Image) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"an image of {width} × {height} is too large: at most {MAX_PIXELS:,} pixels are accepted"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            f"an image of {width} × {height} is too long: at most {MAX_SIDE:,} pixels a side are accepted"
        )
    if width == 0 or height == 0:
        raise ImageError(f"an image of {width} × {height} is empty")
    return image
