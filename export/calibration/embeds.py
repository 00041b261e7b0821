"""What the decoder is run over to learn what its activations carry: words, and images with words behind them.

Enters: rows of token ids (`pumice.export.calibration.tokens`) and pixel values. Leaves: `inputs_embeds` [B, T, D].

    words       <s>  w  w  w  w  w  w  w  w
    an image    <s>  f  f  f  f  f  f  w  w        f: rows of image features, of at most three quarters

Most of a prompt are image features, which are unlike words: weights that are right for words alone may not be for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pumice.export.calibration.drawn import drawn_image
from pumice.export.calibration.module import streamed
from pumice.models.config import LlavaConfig
from pumice.models.text_weights import EMBEDDING_TABLE
from pumice.models.vision import VisionEncoder
from pumice.models.vision_weights import vision_encoder_weights
from pumice.models.weights import Read

LEAST_IMAGES, MOST_IMAGES, ROWS_AN_IMAGE = 2, 4, 4
"""An image for every so many rows of words, within these bounds."""
SIDE = 336
"""Pixels of an image's sides, before it is prepared."""
SHARE = 0.75
"""Of a row that image features may take."""


def calibration_pixels(processor: Any, rows: int) -> Tensor:
    """Pixel values of images of a few smooth random colours, float32 [N, 3, H, W], as the processor prepares them.

    Where it cuts images into tiles, of the whole images alone.
    """
    count = min(MOST_IMAGES, max(LEAST_IMAGES, rows // ROWS_AN_IMAGE))
    images = [drawn_image(seed, (SIDE, SIDE)) for seed in range(count)]
    made = processor.image_processor(images=images, return_tensors="np")
    pixels = torch.as_tensor(np.asarray(made["pixel_values"]), dtype=torch.float32)
    return pixels[:, 0] if pixels.dim() == 5 else pixels


@torch.no_grad()
def calibration_embeds(
    config: LlavaConfig, read: Read, token_ids: Sequence[Sequence[int]], pixels_NCHW: Tensor
) -> Tensor:
    """Rows of words, and one for every image, whose words are those of the first rows; float32 [B, T, D]."""
    words_BTD = _embedded(read, token_ids)
    if not len(pixels_NCHW):
        return words_BTD
    encoder = streamed(lambda: VisionEncoder(config), vision_encoder_weights(config), read)
    seen = words_BTD[:1].expand(len(pixels_NCHW), -1, -1).clone()
    room = int(SHARE * seen.shape[1])
    # one at a time: a tower keeps all states of its layers
    for row_TD, pixels_CHW in zip(seen, pixels_NCHW, strict=True):
        features_ND = encoder(pixels_CHW[None])[: config.tokens_per_image][:room]
        row_TD[1 : 1 + len(features_ND)] = features_ND
    return torch.cat((words_BTD, seen))


def _embedded(read: Read, token_ids: Sequence[Sequence[int]]) -> Tensor:
    numbers, places = torch.tensor(token_ids).unique(return_inverse=True)
    rows = torch.cat([read(EMBEDDING_TABLE, n, n + 1) for n in numbers.tolist()])
    return rows.float()[places]
