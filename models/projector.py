"""The projector: vision features [N, T, F] → rows as wide as the decoder, [N, T, D]. F is of all feature layers.

Before a Mistral 3's come a norm and a merger, which makes one feature of those of s × s patches.
"""

from torch import Tensor, nn

from pumice.models import fused
from pumice.models.activations import ACTIVATIONS
from pumice.models.config import LlavaConfig
from pumice.models.layers import LayerNorm, Linear, parameter


class Projector(nn.Module):
    """LLaVA-1.5's two-layer MLP (arXiv:2310.03744); ViP-LLaVA's has a LayerNorm before it (arXiv:2312.00784)."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        bias, width = config.multimodal_projector_bias, config.text.hidden_size
        epsilon = config.projector_layer_norm_eps
        self.norm = None if epsilon is None else LayerNorm(config.feature_width, epsilon)
        self.linear_1 = Linear(config.feature_width, width, bias=bias)
        self.activation = ACTIVATIONS[config.projector_hidden_act]
        self.linear_2 = Linear(width, width, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """[N, T, F] → [N, T, D]."""
        normed = features if self.norm is None else self.norm(features)
        return self.linear_2(self.activation(self.linear_1(normed)))


class PatchMerger(nn.Module):
    """Mistral 3's: RMSNorm, and a matrix over the features of s × s patches.

    A merged row holds channel by channel the s × s patches, row by row, as torch's `unfold` lays them out.
    """

    def __init__(self, config: LlavaConfig, merge: int) -> None:
        super().__init__()
        width = config.feature_width
        self.merge, self.epsilon = merge, config.text.rms_norm_eps
        self.norm_weight = parameter(width)
        self.merging_layer = Linear(width * merge**2, width, bias=False)

    def forward(self, features: Tensor, columns: int) -> Tensor:
        """[N, T, F] of rows of `columns` · s patches → [N, T / s², F]."""
        N, _, F = features.shape
        normed = fused.simplified_layer_norm(features, self.norm_weight, self.epsilon)
        grid = normed.reshape(N, -1, self.merge, columns, self.merge, F)
        return self.merging_layer(grid.permute(0, 1, 3, 5, 2, 4).reshape(N, -1, F * self.merge**2))
