"""Arrays as transformers' PIL image processors take them: any layout and type of numbers becomes [height, width, 3].

Enters: an array, or anything that NumPy can make one of (a PyTorch tensor), of one image. Leaves: its RGB values in
their own type; and the same as the levels 0 … 255 that Pillow resizes.

    [H, W, 3] [3, H, W]   RGB                 channels first where the first axis is 1, 3 or 4 long, else last
    [H, W, 4] [4, H, W]   RGB laid on white   by the fourth channel
    [H, W, 1] [1, H, W]   grey
    [H, W]                grey                transformers refuses it

A type of numbers means no range of values; the values do, as in transformers (`levels`).
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pumice.errors import ImageError

_EXPECTED = "expected [height, width, channels] or [channels, height, width] of 1, 3 or 4 channels"


@runtime_checkable
class SupportsArray(Protocol):
    """What NumPy can make an array of: tensors of PyTorch, JAX, …"""

    @property
    def shape(self) -> Any:
        """The lengths of its axes."""

    def __getitem__(self, index: int) -> Any:
        """A part along the first axis."""

    def __array__(self) -> Any:
        """The array."""


Array = np.ndarray[Any, Any]
RGB = NDArray[Any]


def as_array(source: object) -> Array | None:
    """The array that an image is given as; None where it is given otherwise.

    Raises:
        ImageError: it is one, but NumPy cannot make an array of it.
    """
    if isinstance(source, np.ndarray):
        return np.asarray(source)
    if not isinstance(source, SupportsArray):
        return None
    try:
        for step in ("detach", "cpu"):  # a tensor that takes gradients, or on a device
            source = getattr(source, step, lambda source=source: source)()
        return np.asarray(source)
    except Exception:  # other libraries may raise anything
        raise ImageError(
            f"an image was given as {type(source).__name__}, which NumPy cannot read: give a NumPy array of it"
        ) from None


def rgb_values(array: Array) -> RGB:
    """The image's values in three channels, shape = (height, width, 3).

    Raises:
        ImageError: not an image's shape, not numbers, or transparency outside 0 … 1.
    """
    told = f"an image was given as an array of {array.dtype} {list(array.shape)}"
    if array.dtype.kind not in "buif":
        raise ImageError(f"{told}, expected numbers")
    if array.size == 0:
        raise ImageError(f"{told}, which is empty")
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise ImageError(f"{told}, {_EXPECTED}")
    if array.shape[0] in (1, 3, 4):  # where both could be: as transformers
        array = np.moveaxis(array, 0, -1)
    elif array.shape[-1] not in (1, 3, 4):
        raise ImageError(f"{told}, {_EXPECTED}")
    match array.shape[-1]:
        case 1:
            return np.repeat(array, 3, axis=-1)
        case 4:
            return _on_white(array, told)
    return array


def levels(values: RGB) -> tuple[NDArray[np.uint8], bool]:
    """The values as uint8, cut off as Pillow's images are made; and whether 0 … 1 was stretched to 0 … 255.

    Whole numbers are taken as they are, be they floats; others must lie within 0 … 1.

    Raises:
        ImageError: a value is negative, too large, or no number.
    """
    if values.dtype == np.uint8:
        return values, False
    least, most = values.min(), values.max()
    if not (least >= 0 and most <= 255):  # nan is neither
        raise _outside(values, "expected 0 … 255 in whole numbers, or 0 … 1")
    if np.allclose(values, values.astype(int)):
        return values.astype(np.uint8), False
    if most > 1:
        raise _outside(values, "which are not whole: expected 0 … 255 in whole numbers, or 0 … 1")
    stretched: NDArray[np.uint8] = (values.astype(np.float64) * 255).astype(np.float32).astype(np.uint8)
    return stretched, True


def unstretched(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Levels in 0 … 1 again, as transformers gives them back after resizing."""
    scaled: NDArray[np.float32] = (values.astype(np.float64) * (1 / 255)).astype(np.float32)
    return scaled


def _on_white(array: Array, told: str) -> RGB:
    """RGBA laid on white in floating point, which rounds otherwise than Pillow does: as transformers."""
    whole = array.dtype.kind in "ui"
    if array.dtype.kind == "f" and not (array.min() >= 0 and array.max() <= 1):
        raise ImageError(f"{told} with values outside 0 … 1: RGBA of floats is taken from 0 to 1")
    white = 255 if whole else 1.0
    alpha = array[..., 3:4] / white
    laid = alpha * array[..., :3] + (1 - alpha) * white
    return (np.round(laid) if whole else laid).astype(array.dtype)


def _outside(values: RGB, expected: str) -> ImageError:
    return ImageError(f"an image's array has the values {values.min():g} … {values.max():g}, {expected}")
