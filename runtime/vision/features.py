"""The features of one prompt's images, encoded when they are asked for.

Enters: prepared images. Leaves: rows of features, in the order of the prompt's image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from pumice.images.prepared import ImageFeatures, PromptImage
from pumice.sessions.arrays import Rows
from pumice.sessions.runs import Cancellation
from pumice.vision.encoder import ImageEncoder


class PromptFeatures:
    """Features of one prompt's images, encoded when they are asked for."""

    def __init__(self, images: Sequence[PromptImage], encoder: ImageEncoder) -> None:
        self.images, self._encoder = list(images), encoder

    def encode(self, cancellation: Cancellation, first: int = 0) -> None:
        """Encode the images from number `first` on. Raises as `ImageEncoder.encode`."""
        self.images[first:] = self._encoder.encode(self.images[first:], cancellation, first)

    def rows(self, seen: int, cancellation: Cancellation) -> Rows:
        """Features of the image tokens from number `seen` on, float32 [M − seen, D], where the decoder computes.

        Images before that are not encoded. Raises as `ImageEncoder.encode`.
        """
        first = 0
        while first < len(self.images) and self.images[first].tokens <= seen:
            seen -= self.images[first].tokens
            first += 1
        self.encode(cancellation, first)
        return self._encoder.joined([p for p in self.images[first:] if isinstance(p, ImageFeatures)])[seen:]
