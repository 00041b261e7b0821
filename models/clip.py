"""The CLIP tower (arXiv:2103.00020): a class token before the patches, and a norm before the layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pumice.models.config import VisionConfig
from pumice.models.layers import LayerNorm, parameter
from pumice.models.vit import Block


class Embeddings(nn.Module):
    """Images to patch embeddings, with the class token first and positions added."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size, patch = config.hidden_size, config.patch_size
        self.patch = patch
        self.patch_embedding = parameter(size, config.num_channels, patch, patch)
        self.class_embedding = parameter(1, 1, size)
        self.position_embedding = parameter(1, config.num_patches + 1, size)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """[N, 3, H, W] → [N, 1 + patches, D]."""
        patches = nn.functional.conv2d(pixels_NCHW, self.patch_embedding, stride=self.patch)
        patches = patches.to(self.class_embedding.dtype)
        class_token = self.class_embedding.expand(pixels_NCHW.shape[0], -1, -1)
        return torch.cat((class_token, patches.flatten(2).transpose(1, 2)), dim=1) + self.position_embedding


class ClipTower(nn.Module):
    """The first `num_layers` layers of transformers' `CLIPVisionModel`."""

    def __init__(self, config: VisionConfig, num_layers: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = LayerNorm(config.hidden_size, config.layer_norm_eps)  # spelt as in checkpoints
        self.layers = nn.ModuleList(Block(config) for _ in range(num_layers))

    def forward(self, pixels_NCHW: Tensor) -> list[Tensor]:
        """[N, 3, H, W] → hidden states, each [N, 1 + patches, D]: the normed embeddings, then one a layer."""
        states = [self.pre_layrnorm(self.embeddings(pixels_NCHW))]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states
