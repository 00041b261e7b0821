"""A video's frames become the vision encoder's `pixel_values`, bit for bit as transformers' video processors make them.

Enters: frames, RGB bytes of any size, and the manifest's `video`. Leaves: float32 [frames, 3, height, width].

    uint8 [h, w, 3] ─resize as torch─▶ ─centre crop─▶ uint8 [H, W, 3] ─(level − mean) / std─▶ float32

Those processors compute with torchvision alone, whose resizing is torch's; images go through Pillow's. Formulas:
transformers' `TorchvisionBackend.resize`, `.center_crop` and `.rescale_and_normalize`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pumice.errors import BundleError, VideoError
from pumice.images.antialias import resized
from pumice.manifest import Clip, VideoProcessing

_MOST_RESIZED = 16_000_000
"""Pixels of a whole resized frame, of which a crop is kept: one of 1 × 60,000 would become larger than any memory."""


def clip_pixels(
    frames: Iterable[NDArray[np.uint8]], clip: Clip, spec: VideoProcessing
) -> NDArray[np.float32]:
    """The frames of a clip, float32 [frames, 3, height, width].

    Raises:
        VideoError: a frame cannot be read, or is too thin.
        BundleError: the steps of `spec` do not make the size that the clip has.
    """
    table_CV = _table(spec)
    pixels_NCHW = np.empty((clip.frames, 3, *clip.size), np.float32)
    for pixels_CHW, frame_HWC in zip(pixels_NCHW, frames, strict=True):
        made_HWC = _cropped(_resized(frame_HWC, spec), spec.crop_to)
        if made_HWC.shape[:2] != clip.size:
            raise BundleError(
                f"manifest.video turns a frame into {made_HWC.shape[0]} × {made_HWC.shape[1]}, "
                f"but image.size says {clip.size[0]} × {clip.size[1]}"
            )
        for channel, table_V in enumerate(table_CV):
            np.take(table_V, made_HWC[..., channel], out=pixels_CHW[channel])
    return pixels_NCHW


def _resized(frame_HWC: NDArray[np.uint8], spec: VideoProcessing) -> NDArray[np.uint8]:
    height, width = frame_HWC.shape[:2]
    size = spec.resize_to
    if spec.resize_shortest_edge is not None:
        edge = spec.resize_shortest_edge
        longer = int(edge * max(height, width) / min(height, width))  # not rounded: as transformers
        if edge * longer > _MOST_RESIZED:
            raise VideoError(f"a frame of {width} × {height} is too long for its width")
        size = (edge, longer) if height <= width else (longer, edge)
    return frame_HWC if size is None else resized(frame_HWC, size)


def _cropped(frame_HWC: NDArray[np.uint8], crop: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The middle of a frame; black borders around what is smaller, an odd line of them below or right."""
    if crop is None:
        return frame_HWC
    lacking = [max(0, side - has) for side, has in zip(crop, frame_HWC.shape[:2], strict=True)]
    if any(lacking):
        frame_HWC = np.pad(frame_HWC, [*((lack // 2, lack - lack // 2) for lack in lacking), (0, 0)])
    top, left = ((has - side) // 2 for side, has in zip(crop, frame_HWC.shape[:2], strict=True))
    return frame_HWC[top : top + crop[0], left : left + crop[1]]


def _table(spec: VideoProcessing) -> NDArray[np.float32]:
    """What the 256 levels become in each channel, [3, 256]: rescaled and normalised in one step, in float32."""
    levels_V = np.arange(256, dtype=np.float32)
    factor = spec.rescale_factor
    if spec.mean is None or spec.std is None:
        scaled_V = levels_V if factor is None else levels_V * np.float32(factor)
        return np.stack([scaled_V] * 3)
    undone = np.float32(1.0 if factor is None else 1.0 / factor)
    mean_C1, std_C1 = (np.array(values, np.float32)[:, None] * undone for values in (spec.mean, spec.std))
    table_CV: NDArray[np.float32] = (levels_V - mean_C1) / std_C1
    return table_CV
