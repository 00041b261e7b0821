"""The Pixtral tower (arXiv:2410.07073): images of any size, positions by a rotary embedding of row and column.

transformers packs all images into one sequence under a block-diagonal mask. Here a batch holds images of one size
and no mask is needed: each attends to itself, which is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pumice.models import fused
from pumice.models.activations import ACTIVATIONS
from pumice.models.config import VisionConfig
from pumice.models.layers import Linear, parameter

Turns = tuple[Tensor, Tensor]
"""Cosine and sine of every patch's angles, each [T, K/2]."""


class Norm(nn.Module):
    """RMSNorm's parameter; the fused operators compute it."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.weight = parameter(config.hidden_size)
        self.epsilon = config.layer_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] → [..., D]."""
        return fused.simplified_layer_norm(x, self.weight, self.epsilon)


class Attention(nn.Module):
    """Full attention of rotated queries and keys; there are no biases."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj = Linear(size, size, bias=False)
        self.k_proj = Linear(size, size, bias=False)
        self.v_proj = Linear(size, size, bias=False)
        self.o_proj = Linear(size, size, bias=False)

    def forward(self, x: Tensor, turns: Turns) -> Tensor:
        """[N, T, D] → [N, T, D]."""
        q, k = (fused.rotary_embedding(part, *turns) for part in (self.q_proj(x), self.k_proj(x)))
        return self.o_proj(fused.multi_head_attention(q, k, self.v_proj(x), None, self.num_heads))


class MLP(nn.Module):
    """The gated MLP."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(size, inner, bias=False)
        self.up_proj = Linear(size, inner, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.down_proj = Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] → [..., D]."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config)
        self.attention = Attention(config)
        self.ffn_norm = Norm(config)
        self.feed_forward = MLP(config)

    def forward(self, x: Tensor, turns: Turns) -> Tensor:
        """[N, T, D] → [N, T, D]."""
        attention = self.attention(self.attention_norm(x), turns)
        normed, x = fused.skip_simplified_layer_norm(
            x, attention, self.ffn_norm.weight, self.ffn_norm.epsilon
        )
        return x + self.feed_forward(normed)


class PixtralTower(nn.Module):
    """The first `num_layers` layers of transformers' `PixtralVisionModel`."""

    def __init__(self, config: VisionConfig, num_layers: int) -> None:
        super().__init__()
        assert config.rope_theta is not None
        size, self.patch = config.hidden_size, config.patch_size
        self.theta, self.head_dim = config.rope_theta, size // config.num_attention_heads
        self.patch_conv = parameter(size, config.num_channels, self.patch, self.patch)
        self.ln_pre = Norm(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(num_layers))

    def forward(self, pixels_NCHW: Tensor) -> list[Tensor]:
        """[N, 3, H, W] → hidden states, each [N, H/patch · W/patch, D]: the normed patches, then one a layer."""
        patches = nn.functional.conv2d(pixels_NCHW, self.patch_conv, stride=self.patch)
        dtype = self.ln_pre.weight.dtype
        cos, sin = rotary_turns(patches.shape[2], patches.shape[3], self.head_dim, self.theta)
        turns = cos.to(dtype), sin.to(dtype)
        states = [self.ln_pre(patches.to(dtype).flatten(2).transpose(1, 2))]
        for layer in self.layers:
            states.append(layer(states[-1], turns))
        return states


def rotary_turns(height: int, width: int, head_dim: int, theta: float) -> Turns:
    """Cosine and sine for `height` × `width` patches, row by row, each [height·width, K/2].

    Of a head's K/2 frequencies theta^(-2i/K) the even ones turn with the row, the odd ones with the column:

        angles of patch (r, c)    r·f0  r·f2 … | c·f1  c·f3 …
    """
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    rows = torch.arange(height, dtype=torch.float32)[:, None] * frequencies[0::2]
    columns = torch.arange(width, dtype=torch.float32)[:, None] * frequencies[1::2]
    angles = torch.cat((rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)), dim=-1)
    flat = angles.flatten(0, 1)
    return flat.cos(), flat.sin()
