"""Elementwise activations, by the names that checkpoints use (transformers' `ACT2FN`).

The common ones become one fused operator each when exported, as those of `pumice.models.fused`; the others are left to
the exporter. `prelu` and `xielu` have parameters of their own and are not supported.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.onnx.ops import symbolic

Activation = Callable[[Tensor], Tensor]


def quick_gelu(alpha: float) -> Activation:
    """x·sigmoid(alpha·x): alpha 1.702 is CLIP's quick GELU, alpha 1 is SiLU."""

    def activate(x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return _fused("com.microsoft::QuickGelu", x, alpha=alpha)
        return x * torch.sigmoid(alpha * x)

    return activate


def gelu(x: Tensor) -> Tensor:
    """x·Φ(x) (arXiv:1606.08415)."""
    return _fused("com.microsoft::Gelu", x) if torch.onnx.is_in_onnx_export() else F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation."""
    if torch.onnx.is_in_onnx_export():
        return _fused("com.microsoft::FastGelu", x)
    return F.gelu(x, approximate="tanh")


def gelu_clipped(x: Tensor) -> Tensor:
    """GELU between -10 and 10 (arXiv:2004.09602)."""
    return gelu(x).clamp(-10, 10)


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)² (arXiv:2109.08668)."""
    return F.relu(x) * F.relu(x)


def identity(x: Tensor) -> Tensor:
    """x itself: two layers without anything between."""
    return x


def _fused(operator: str, x: Tensor, **attrs: float) -> Tensor:
    return symbolic(operator, (x,), dict(attrs), dtype=x.dtype, shape=x.shape, version=1)


ACTIVATIONS: dict[str, Activation] = {
    "silu": quick_gelu(1.0),
    "swish": quick_gelu(1.0),
    "quick_gelu": quick_gelu(1.702),
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_10": gelu_clipped,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "relu": F.relu,
    "relu2": relu_squared,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": identity,
}
"""transformers' own four spellings of the tanh approximation differ by rounding only."""
