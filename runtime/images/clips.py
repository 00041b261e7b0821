"""The features of a video's frames joined to those that stand for the video: fewer of each frame, one after another.

Enters: the encoder's features of each frame, and a `Clip`. Leaves: what is kept of a frame, as soon as it is encoded;
and of all frames float32 [tokens, D].

    bilinear   of a frame's [n², D] features, as a grid: ⌈n/2⌉ × ⌈n/2⌉, as torch's `interpolate` (`shrink.py`)
    encoder    ⌊n/2⌋ × ⌊n/2⌋ that the encoder pooled before its projector, behind the frame's own

The encoder's last row of each is the newline; a video of LLaVA-OneVision ends with one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pumice.images.shrink import shrunk_lines
from pumice.manifest import Clip

Floats = NDArray[np.float32]


def kept(clip: Clip, part: Floats) -> Floats:
    """Of a frame's rows as the encoder gives them those that the video has, [per_frame + 1, D], the newline last."""
    whole, newline_D = clip.side**2, part[-1]
    rows = np.empty((clip.per_frame + 1, part.shape[1]), np.float32)
    rows[-1] = newline_D
    if clip.pooling == "encoder":
        rows[:-1] = part[whole:-1]
    else:
        grid_LWD = part[:whole].reshape(clip.side, clip.side, -1)
        pooled_LWD = rows[:-1].reshape(clip.pooled_side, clip.pooled_side, -1)
        shrunk_lines(grid_LWD.__getitem__, (clip.side, clip.side), pooled_LWD)
    return rows


def join(clip: Clip, parts: Sequence[Floats]) -> Floats:
    """The features of a video of what is kept of its frames."""
    newline = [parts[-1][-1:]] if clip.newline else []
    return np.concatenate([*(part[:-1] for part in parts), *newline])
