"""A prompt as the graphs take it, and as transformers' processors give it.

Enters: token ids, and prepared images and videos. Leaves: the same, in the arrays that people look for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pumice.images.prepared import PreparedImage, PromptImage
from pumice.images.preprocess import Pixels, Size, padded_together


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prompt as the graphs take it.

    `input_ids` is int64 [1, T] with every image's tokens in place, of which `image_tokens` take a row of features
    each; `images` are its images and videos in order, as pixels, or as features if they were encoded before. `size`
    (height, width) is that of every image, or None where each has its own.
    """

    input_ids: NDArray[np.int64]
    images: tuple[PromptImage, ...]
    image_tokens: int
    size: Size | None

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.input_ids.shape[1])

    @property
    def pixel_arrays(self) -> tuple[Pixels, ...]:
        """The images that were not given by their features, not to be written to: each float32 [3, height, width].

        Where images are cut into tiles, [1 + tiles, 3, height, width].
        """
        return tuple(image.values for image in self._prepared if image.frames is None)

    @property
    def video_arrays(self) -> tuple[Pixels, ...]:
        """The videos that were not given by their features, likewise: each float32 [frames, 3, height, width]."""
        return tuple(image.values for image in self._prepared if image.frames is not None)

    @property
    def _prepared(self) -> list[PreparedImage]:
        return [image for image in self.images if isinstance(image, PreparedImage)]

    @property
    def pictures(self) -> tuple[Pixels, ...]:
        """`pixel_arrays` by its earlier name."""
        return self.pixel_arrays

    @property
    def pixel_values(self) -> NDArray[np.float32]:
        """`pixel_arrays` in one array as transformers has them, float32 [N, 3, H, W]; N may be 0.

        H and W are the largest sides; smaller images have zeros below and to the right. Where images are cut into
        tiles it is [N, 1 + tiles, 3, H, W], with tiles of zeros behind those of an image that has fewer.
        """
        return padded_together(self.pixel_arrays, self.size)

    @property
    def image_sizes(self) -> NDArray[np.int64]:
        """(height, width) of each image in `pixel_values`, int64 [N, 2]; with tiles, its own."""
        sizes = [image.size for image in self._prepared if image.frames is None]
        return np.array(sizes, np.int64).reshape(-1, 2)
