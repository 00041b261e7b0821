"""The small pieces that tower, projector and decoder are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def parameter(*shape: int) -> nn.Parameter:
    """An uninitialised float32 parameter: weights come from a checkpoint, by name (`pumice.models.weights`)."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class Linear(nn.Module):
    """x [..., I] → [..., O]. The weight is [I, O], as ONNX's MatMul wants it: the transpose of torch's `nn.Linear`."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = parameter(in_features, out_features)
        self.bias = parameter(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, and add the bias where there is one."""
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class LayerNorm(nn.Module):
    """LayerNorm over the last axis with weight and bias [D]."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.bias = parameter(size), parameter(size)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] → [..., D]."""
        return nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.epsilon)
