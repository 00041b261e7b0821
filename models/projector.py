"""The projector: vision features [N, T, vision D] → rows as wide as the decoder, [N, T, D]."""

from torch import Tensor, nn

from pumice.models import fused
from pumice.models.config import LlavaConfig
from pumice.models.layers import Linear


class Projector(nn.Module):
    """LLaVA-1.5's two-layer MLP (arXiv:2310.03744)."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        bias, width = config.multimodal_projector_bias, config.text.hidden_size
        self.linear_1 = Linear(config.vision.hidden_size, width, bias=bias)
        self.activation = fused.ACTIVATIONS[config.projector_hidden_act]
        self.linear_2 = Linear(width, width, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """[N, T, vision D] → [N, T, D]."""
        return self.linear_2(self.activation(self.linear_1(features)))
