"""transformers' video processors without torchvision: the same steps, by the functions of torch that it calls.

Enters: videos as lists of images, and the settings of a checkpoint's video processor. Leaves: `pixel_values_videos`. It
stands in the place of the one that transformers makes where torchvision is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate, pad

from pumice.manifest import VideoProcessing


class TorchVideos:
    """A video processor as far as transformers' whole processors call it."""

    def __init__(self, spec: VideoProcessing) -> None:
        self._spec = spec

    def __call__(self, videos: Sequence[Sequence[Sequence[Image.Image]]], **_: Any) -> dict[str, Any]:
        """Videos, in a list for each prompt."""
        return {
            "pixel_values_videos": np.stack([self._pixels(video) for prompt in videos for video in prompt])
        }

    def _pixels(self, video: Sequence[Image.Image]) -> np.ndarray:
        """float32 [frames, 3, height, width]."""
        spec = self._spec
        frames_NHWC = torch.from_numpy(np.stack([np.asarray(frame.convert("RGB")) for frame in video]))
        pixels_NCHW = self._cropped(self._resized(frames_NHWC.permute(0, 3, 1, 2).contiguous())).float()
        factor = 1.0 if spec.rescale_factor is None else spec.rescale_factor
        if spec.mean is None or spec.std is None:
            return (pixels_NCHW * factor).numpy()
        mean, std = (
            (torch.tensor(values) * (1.0 / factor))[:, None, None] for values in (spec.mean, spec.std)
        )
        return pixels_NCHW.sub_(mean).div_(std).numpy()

    def _resized(self, frames_NCHW: torch.Tensor) -> torch.Tensor:
        height, width = frames_NCHW.shape[-2:]
        size, edge = self._spec.resize_to, self._spec.resize_shortest_edge
        if edge is not None:
            longer = int(edge * max(height, width) / min(height, width))
            size = (edge, longer) if height <= width else (longer, edge)
        if size in (None, (height, width)):
            return frames_NCHW
        return interpolate(frames_NCHW, size=size, mode="bicubic", align_corners=False, antialias=True)

    def _cropped(self, frames_NCHW: torch.Tensor) -> torch.Tensor:
        crop = self._spec.crop_to
        if crop is None:
            return frames_NCHW
        down, across = (max(0, side - has) for side, has in zip(crop, frames_NCHW.shape[-2:], strict=True))
        frames_NCHW = pad(frames_NCHW, [across // 2, (across + 1) // 2, down // 2, (down + 1) // 2])
        top, left = ((has - side) // 2 for side, has in zip(crop, frames_NCHW.shape[-2:], strict=True))
        return frames_NCHW[..., top : top + crop[0], left : left + crop[1]]
