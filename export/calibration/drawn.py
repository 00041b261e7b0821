"""Smooth random images, which stand for photographs where there are none.

Enters: a seed and a size. Leaves: a PIL image.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def drawn_image(seed: int, size: tuple[int, int]) -> Image.Image:
    """A smooth random RGB image of `size` (width, height) pixels: a few random colours, enlarged."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
