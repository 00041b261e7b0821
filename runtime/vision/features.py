"""The features of prompts' images, and when they are encoded.

Enters: prepared images. Leaves: rows of features, in the order of the prompt's image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from pumice.images.prepared import ImageFeatures, PromptImage
from pumice.sessions.arrays import Rows
from pumice.sessions.runs import Cancellation
from pumice.vision.encoder import ImageEncoder


class PromptFeatures:
    """Features of one prompt's images: `images` become `ImageFeatures` as they are encoded, by `encode_together`."""

    def __init__(self, images: Sequence[PromptImage], encoder: ImageEncoder) -> None:
        self.images, self._encoder = list(images), encoder

    @property
    def encoder(self) -> ImageEncoder:
        """What encodes them."""
        return self._encoder

    def encode(self, cancellation: Cancellation) -> None:
        """Encode all images now. Raises as `ImageEncoder.encode`."""
        encode_together([self], cancellation)

    def rows(self, seen: int, cancellation: Cancellation) -> Rows:
        """Features of the image tokens from number `seen` on, float32 [M − seen, D], where the decoder computes.

        Images before that are not encoded. Raises as `ImageEncoder.encode`.
        """
        first = 0
        while first < len(self.images) and self.images[first].tokens <= seen:
            seen -= self.images[first].tokens
            first += 1
        encode_together([self], cancellation, first)
        return self._encoder.joined([p for p in self.images[first:] if isinstance(p, ImageFeatures)])[seen:]


def encode_together(prompts: Sequence[PromptFeatures], cancellation: Cancellation, first: int = 0) -> None:
    """Encode the images of prompts to one model, from number `first` of all of them on, each distinct one once.

    All encoding for answers happens here:

    - a single prompt's, a chat's turn too, when its prefill begins: by `rows`, without the images that the cache holds;
    - a list's before the first prefill: all prompts' at once, so that the encoder's batches are full;
    - an engine's in its preparing thread, a request at a time, while others decode: by `PromptFeatures.encode`.

    Whatever is encoded already is taken as it is: `rows` has nothing left to do for the latter two. Raises as
    `ImageEncoder.encode`; errors number the images of all prompts from 0.
    """
    images = [image for prompt in prompts for image in prompt.images]
    if not images:
        return
    encoded = prompts[0].encoder.encode(images[first:], cancellation, first)
    images[first:] = encoded
    rest = iter(images)
    for prompt in prompts:
        prompt.images[:] = [next(rest) for _ in prompt.images]
