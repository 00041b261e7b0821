"""Pictures drawn ahead of training: scenes in, a memory-mapped array of small pictures out.

Pictures are rendered at various sizes and shrunk as the image processor shrinks them; questions are drawn afresh
each time a picture is used, so a pool can be passed over many times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pebble.architecture import IMAGE_SIZE, MEAN, PATCH_SIZE, STD
from pebble.pairs import Pair, sample_pair
from pebble.scenes import COLOURS, KINDS, SIZES, Scene, render, sample_scene

RENDER_SIZES = (160, 224, 288)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """`pixels` uint8 [scenes or 2·pairs, size, size, 3]; the pictures of pair i are 2i and 2i + 1 of their own pool."""

    scenes: tuple[Scene, ...]
    pairs: tuple[Pair, ...]
    scene_pixels: NDArray[np.uint8]
    pair_pixels: NDArray[np.uint8]


def draw_pool(folder: Path, *, scenes: int, pairs: int, seed: int, advance: Callable[[], None]) -> Pool:
    """Draw, or open what was drawn before with the same numbers."""
    drawn = tuple(sample_scene(Random(f"{seed} scene {i}")) for i in range(scenes))
    paired = tuple(sample_pair(Random(f"{seed} pair {i}")) for i in range(pairs))
    both = [scene for pair in paired for scene in (pair.first, pair.second)]
    return Pool(
        scenes=drawn,
        pairs=paired,
        scene_pixels=_pixels(folder / f"scenes-{seed}-{scenes}.npy", list(drawn), advance),
        pair_pixels=_pixels(folder / f"pairs-{seed}-{pairs}.npy", both, advance),
    )


def _pixels(path: Path, scenes: list[Scene], advance: Callable[[], None]) -> NDArray[np.uint8]:
    if not path.exists():
        drawn = np.empty((len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        for i, scene in enumerate(scenes):
            drawn[i] = shrink(render(scene, RENDER_SIZES[i % len(RENDER_SIZES)]))
            advance()
        partial = path.with_suffix(".partial.npy")
        np.save(partial, drawn)
        partial.replace(path)
    pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pixels


def shrink(picture: Image.Image) -> NDArray[np.uint8]:
    """A square picture as the image processor resizes it."""
    return np.asarray(picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def normalise(pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [N, H, W, 3] → `pixel_values` float32 [N, 3, H, W]."""
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    scaled = (pixels_NHWC.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def patch_labels(scene: Scene) -> NDArray[np.int64]:
    """What stands in the grid cell of each patch → [patches, 4]: kind, colour, size (0 for nothing), and the cell."""
    side = IMAGE_SIZE // PATCH_SIZE
    cells = np.zeros((3, 3, 4), np.int64)
    cells[..., 3] = np.arange(9).reshape(3, 3)
    for shape in scene.shapes:
        kind, colour = KINDS.index(shape.kind), list(COLOURS).index(shape.colour)
        cells[shape.row, shape.column, :3] = (kind + 1, colour + 1, list(SIZES).index(shape.size) + 1)
    third = 3 * np.arange(side) // side
    return cells[third[:, None], third].reshape(-1, 4)
