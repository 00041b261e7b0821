"""The vision encoder: `pixel_values` [N, 3, H, W] → `image_features` [N·tokens, D].

A CLIP tower (transformers' `CLIPVisionModel`) up to the feature layer, the feature selection, and the projector.
Another tower is another class with the same call; `VisionEncoder` chooses by the config's type.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pumice.models import fused
from pumice.models.config import LlavaConfig, VisionConfig
from pumice.models.layers import LayerNorm, Linear, parameter
from pumice.models.projector import Projector


class Embeddings(nn.Module):
    """Pictures to patch embeddings, with the class token first and positions added."""

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
        class_token = self.class_embedding.expand(pixels_NCHW.shape[0], -1, -1)
        return torch.cat((class_token, patches.flatten(2).transpose(1, 2)), dim=1) + self.position_embedding


class Attention(nn.Module):
    """Full attention; the three biases are added inside the fused operator."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj = Linear(size, size, bias=False)
        self.k_proj = Linear(size, size, bias=False)
        self.v_proj = Linear(size, size, bias=False)
        self.qkv_bias = parameter(3 * size)
        self.out_proj = Linear(size, size, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] → [N, T, D]."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(fused.multi_head_attention(q, k, v, self.qkv_bias, self.num_heads))


class MLP(nn.Module):
    """Two layers with the tower's activation between."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.activation = fused.ACTIVATIONS[config.hidden_act]
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] → [N, T, D]."""
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] → [N, T, D]."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipTower(nn.Module):
    """The first `num_layers` layers of a CLIP tower: what lies behind the feature layer is never read."""

    def __init__(self, config: VisionConfig, num_layers: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = LayerNorm(config.hidden_size, config.layer_norm_eps)  # spelt as in checkpoints
        self.layers = nn.ModuleList(Block(config) for _ in range(num_layers))

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """[N, 3, H, W] → hidden states [N, 1 + patches, D] after the last layer kept."""
        x = self.pre_layrnorm(self.embeddings(pixels_NCHW))
        for layer in self.layers:
            x = layer(x)
        return x


class VisionEncoder(nn.Module):
    """Tower, feature selection and projector: pictures to rows for the decoder."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.tower = ClipTower(config.vision, config.vision_layers)
        self.drop_class_token = config.vision_feature_select_strategy == "default"
        self.projector = Projector(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[N, 3, H, W] → `image_features` [N·tokens, D], pictures one after the other."""
        features = self.tower(pixel_values)
        if self.drop_class_token:
            features = features[:, 1:]
        return self.projector(features).flatten(0, 1)
