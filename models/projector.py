"""The projector: vision features [N, T, F] → rows as wide as the decoder, [N, T, D]. F is of all feature layers."""

from torch import Tensor, nn

from pumice.models.activations import ACTIVATIONS
from pumice.models.config import LlavaConfig
from pumice.models.layers import LayerNorm, Linear


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
