"""What transformers' processors make of videos, without torchvision, which its video processors do not do without.

`TorchVideos` stands in the place of a `LlavaOnevisionVideoProcessor` or a `LlavaNextVideoVideoProcessor`: the same
steps, each by the function of torch that torchvision calls. The rest is transformers' own processor. With torchvision
0.28 both classes themselves gave the very same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate, pad


@dataclass(frozen=True, kw_only=True)
class TorchVideos:
    """`size` is (height, width), or a number: the shortest edge, before a centre crop to `crop`."""

    size: tuple[int, int] | int
    crop: int | None
    mean: list[float]
    std: list[float]
    factor: float = 1 / 255

    def __call__(self, videos: Any, **_: Any) -> dict[str, torch.Tensor]:
        return {"pixel_values_videos": torch.stack([self.pixels(video) for video in _each(videos)])}

    def pixels(self, video: Any) -> torch.Tensor:
        frames_NCHW = torch.from_numpy(np.stack([np.asarray(frame) for frame in video])).permute(0, 3, 1, 2)
        frames_NCHW = self._cropped(self._resized(frames_NCHW.contiguous()))
        mean, std = (torch.tensor(v) * (1.0 / self.factor) for v in (self.mean, self.std))
        return (frames_NCHW.float() - mean[:, None, None]) / std[:, None, None]

    def _resized(self, frames_NCHW: torch.Tensor) -> torch.Tensor:
        height, width = frames_NCHW.shape[-2:]
        size = self.size
        if isinstance(size, int):
            longer = int(size * max(height, width) / min(height, width))
            size = (size, longer) if height <= width else (longer, size)
        if size == (height, width):
            return frames_NCHW
        return interpolate(frames_NCHW, size=size, mode="bicubic", align_corners=False, antialias=True)

    def _cropped(self, frames_NCHW: torch.Tensor) -> torch.Tensor:
        if self.crop is None:
            return frames_NCHW
        below, right = (max(0, self.crop - side) for side in frames_NCHW.shape[-2:])
        sides = [right // 2, (right + 1) // 2, below // 2, (below + 1) // 2]
        frames_NCHW = pad(frames_NCHW, sides)
        top, left = (int((side - self.crop) / 2.0) for side in frames_NCHW.shape[-2:])
        return frames_NCHW[..., top : top + self.crop, left : left + self.crop]


def with_videos(processor: Any, videos: TorchVideos) -> Any:
    """A processor of images that takes videos as well."""
    processor.video_processor = videos
    return processor


def _each(videos: Any) -> list[Any]:
    """Videos, of which `apply_chat_template` nests those of a conversation."""
    nested = isinstance(videos, list) and isinstance(videos[0], list) and not hasattr(videos[0][0], "size")
    return [video for one in videos for video in one] if nested else list(videos)
