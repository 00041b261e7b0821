"""The features of one prompt's images, encoded when they are asked for.

Enters: prepared images. Leaves: rows of features, in the order of the prompt's image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from pumice.images.prepared import ImageFeatures, PromptPicture
from pumice.sessions.arrays import Rows
from pumice.sessions.runs import Cancellation
from pumice.vision.encoder import PictureEncoder


class PromptFeatures:
    """Features of one prompt's pictures, encoded when they are asked for."""

    def __init__(self, pictures: Sequence[PromptPicture], encoder: PictureEncoder) -> None:
        self.pictures, self._encoder = list(pictures), encoder

    def encode(self, cancellation: Cancellation, first: int = 0) -> None:
        """Encode the pictures from number `first` on. Raises as `PictureEncoder.encode`."""
        self.pictures[first:] = self._encoder.encode(self.pictures[first:], cancellation, first)

    def rows(self, seen: int, cancellation: Cancellation) -> Rows:
        """Features of the image tokens from number `seen` on, float32 [M − seen, D], where the decoder computes.

        Pictures before that are not encoded. Raises as `PictureEncoder.encode`.
        """
        first = 0
        while first < len(self.pictures) and self.pictures[first].tokens <= seen:
            seen -= self.pictures[first].tokens
            first += 1
        self.encode(cancellation, first)
        return self._encoder.joined([p for p in self.pictures[first:] if isinstance(p, ImageFeatures)])[seen:]
