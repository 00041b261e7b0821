"""Videos in the manifest: how their frames are prepared, and what stands for one in a prompt.

Enters: the manifest's `video`, which is absent where a model takes no videos. Leaves: a `Clip`, the layout of one
video; what follows from it stands in `images/layout.py`. Formulas: transformers' `LlavaOnevisionModel.apply_pooling`
and `LlavaNextVideoPooler`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec

from pumice.errors import BundleError
from pumice.manifest.defaults import NonNegative, Positive

MOST_FRAMES = 256
"""Of one video: prepared, they take 450 MB at 384 × 384 pixels."""

Pooling: TypeAlias = Literal["bilinear", "encoder"]


@dataclass(frozen=True, kw_only=True)
class VideoProcessing:
    """How the frames of a video become `pixel_values`, and how a video appears in a prompt.

    The steps are those of `ImageProcessing`, null where they are skipped, but for their arithmetic: frames are resized
    as torch does it, bicubic (`images/frames.py`), and a level becomes (level − mean / factor) / (std / factor).

    `token` stands for one video. It becomes `tokens_per_frame` × `token_id` for each frame, and one more where
    `newline`. With `pooling` `bilinear` a frame's features are made fewer by whoever reads them; with `encoder` the
    encoder gives the fewer ones behind each image's own.
    """

    token: str
    token_id: NonNegative
    tokens_per_frame: Positive
    pooling: Pooling
    newline: bool
    resize_shortest_edge: Positive | None
    resize_to: tuple[Positive, Positive] | None
    crop_to: tuple[Positive, Positive] | None
    rescale_factor: Annotated[float, msgspec.Meta(gt=0)] | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video of `frames`, each of which enters the encoder in one `size` (height, width).

    Of the encoder's `side` × `side` features of a frame `per_frame` are left, `pooled_side` each way; with `newline`
    the row that ends lines of images stands behind the last frame.
    """

    size: tuple[int, int]
    side: int
    frames: int
    per_frame: int
    pooling: Pooling
    newline: bool

    @property
    def tokens(self) -> int:
        """Rows of features, and image tokens, of the whole video."""
        return self.frames * self.per_frame + self.newline

    @property
    def pooled_side(self) -> int:
        """Features each way that are left of a frame."""
        return pooled_side(self.side, self.pooling)


def pooled_side(side: int, pooling: Pooling) -> int:
    """Features each way that are left of `side`."""
    return -(-side // 2) if pooling == "bilinear" else side // 2


def clip_of(video: VideoProcessing, size: tuple[int, int], side: int, frames: int, where: str) -> Clip:
    """The layout of a video; `size` and `side` are those of a tile, and `where` names the manifest in messages.

    Raises:
        BundleError: tokens that are not those of the pooling.
    """
    if video.tokens_per_frame != pooled_side(side, video.pooling) ** 2:
        raise BundleError(
            f"{where} has video.tokens_per_frame {video.tokens_per_frame}, expected "
            f"{pooled_side(side, video.pooling) ** 2} of {side} × {side} features pooled by {video.pooling!r}"
        )
    return Clip(
        size=size,
        side=side,
        frames=frames,
        per_frame=video.tokens_per_frame,
        pooling=video.pooling,
        newline=video.newline,
    )
