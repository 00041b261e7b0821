"""The SigLIP tower (arXiv:2303.15343): patches alone, without class token and without a norm before the layers."""

from __future__ import annotations

from torch import Tensor, nn

from pumice.models.config import VisionConfig
from pumice.models.layers import parameter
from pumice.models.vit import Block


class Embeddings(nn.Module):
    """Images to patch embeddings with positions added."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size, patch = config.hidden_size, config.patch_size
        self.patch = patch
        self.patch_embedding = parameter(size, config.num_channels, patch, patch)
        self.patch_bias = parameter(size)
        self.position_embedding = parameter(1, config.num_patches, size)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """[N, 3, H, W] → [N, patches, D]."""
        patches = nn.functional.conv2d(
            pixels_NCHW, self.patch_embedding, bias=self.patch_bias, stride=self.patch
        )
        patches = patches.to(self.position_embedding.dtype)
        return patches.flatten(2).transpose(1, 2) + self.position_embedding


class SiglipTower(nn.Module):
    """The first `num_layers` layers of transformers' `SiglipVisionModel`; a LLaVA never reads its final norm."""

    def __init__(self, config: VisionConfig, num_layers: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(num_layers))

    def forward(self, pixels_NCHW: Tensor) -> list[Tensor]:
        """[N, 3, H, W] → hidden states, each [N, patches, D]: the embeddings, then one a layer."""
        states = [self.embeddings(pixels_NCHW)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states
