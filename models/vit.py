"""The transformer layer that CLIP and SigLIP share: LayerNorm first, full attention, a two-layer MLP."""

from __future__ import annotations

from torch import Tensor, nn

from pumice.models import fused
from pumice.models.activations import ACTIVATIONS
from pumice.models.config import VisionConfig
from pumice.models.layers import LayerNorm, Linear, parameter


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
        self.activation = ACTIVATIONS[config.hidden_act]
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
