"""The vision encoder: `pixel_values` [N, 3, H, W] → `image_features` [N·tokens, D].

Where images are cut into tiles, N counts these, and behind the features of each comes the row that ends a line of
features: who joins the tiles needs it, and it is turned with the residual stream like all that enters the decoder.
Where the features of a video's frames are pooled before the projector, those stand between the two: an image is encoded
once, whichever it is.

A tower up to its last feature layer, the feature selection, a merger of patches (Mistral 3's), and the projector. What
lies behind the last feature layer is never read, and is not built. A tower is a class that takes the config and a
number of layers, and turns images into its hidden states.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pumice.models.clip import ClipTower
from pumice.models.config import LlavaConfig, VisionConfig
from pumice.models.layers import parameter
from pumice.models.pixtral import PixtralTower
from pumice.models.projector import PatchMerger, Projector
from pumice.models.siglip import SiglipTower

TOWERS: dict[str, Callable[[VisionConfig, int], nn.Module]] = {
    "clip": ClipTower,
    "siglip": SiglipTower,
    "pixtral": PixtralTower,
}
"""By the config's `tower`."""


class VisionEncoder(nn.Module):
    """Tower, feature selection and projector: images to rows for the decoder."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.tower = TOWERS[config.vision.tower](config.vision, config.vision_layers)
        self.feature_layers = config.vision_feature_layers
        self.drops_first = config.vision_feature_select_strategy == "default"
        self.merger = None if config.merge is None else PatchMerger(config, config.merge)
        self.token_side = config.token_side
        self.projector = Projector(config)
        pooling = None if config.video is None else config.video.pooling
        self.pool = None if pooling in (None, "bilinear") else (torch.maximum if pooling == "max" else mean)
        self.image_newline = (
            None if config.image_grid_pinpoints is None else parameter(config.text.hidden_size)
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[N, 3, H, W] → `image_features` [N·tokens, D], images one after the other."""
        states = self.tower(pixel_values)
        features = torch.cat([states[number] for number in self.feature_layers], dim=-1)
        if self.drops_first:  # CLIP's class token; transformers drops SigLIP's first patch as well
            features = features[:, 1:]
        if self.merger is not None:
            features = self.merger(features, pixel_values.shape[3] // self.token_side)
        if self.pool is not None:
            features = torch.cat([features, pooled(features, self.pool)], dim=1)
        rows = self.projector(features)
        if self.image_newline is not None:
            rows = torch.cat([rows, self.image_newline.expand(rows.shape[0], 1, -1)], dim=1)
        return rows.flatten(0, 1).float()


def pooled(features: Tensor, pool: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """[N, n², F] → [N, (n / 2)², F]: of each 2 × 2 features of the grid one."""
    side = math.isqrt(features.shape[1])
    cells = features.reshape(-1, side // 2, 2, side // 2, 2, features.shape[2])
    across = pool(cells[:, :, :, :, 0], cells[:, :, :, :, 1])
    return pool(across[:, :, 0], across[:, :, 1]).reshape(-1, (side // 2) ** 2, features.shape[2])


def mean(one: Tensor, other: Tensor) -> Tensor:
    """Halfway between the two."""
    return (one + other) * 0.5
