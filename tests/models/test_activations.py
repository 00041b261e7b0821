"""Every activation: in torch against transformers' own, and on ONNX Runtime, fused where there is an operator."""

from __future__ import annotations

import pytest
import torch
from transformers.activations import ACT2CLS, ACT2FN

from pumice.models.activations import ACTIVATIONS
from tests.models.test_fused import check

FUSED = {
    "silu": "QuickGelu",
    "swish": "QuickGelu",
    "quick_gelu": "QuickGelu",
    "gelu": "Gelu",
    "gelu_python": "Gelu",
    "gelu_10": "Gelu",
    "gelu_pytorch_tanh": "FastGelu",
    "gelu_python_tanh": "FastGelu",
    "gelu_new": "FastGelu",
    "gelu_fast": "FastGelu",
    "gelu_accurate": "FastGelu",
}
WITH_PARAMETERS = {"prelu", "xielu"}
NOT_OF_LAYERS = {"laplace", "sqrtsoftplus"}  # of attention scores and of routers


def values() -> torch.Tensor:
    return torch.cat((torch.linspace(-30, 30, 2001), torch.tensor([0.0, -1e-6, 1e-6, 3.0, 6.0]))).view(1, -1)


def test_every_name_of_transformers_is_decided() -> None:
    assert set(ACT2CLS) == set(ACTIVATIONS) | WITH_PARAMETERS | NOT_OF_LAYERS


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_torch(name: str) -> None:
    torch.testing.assert_close(ACTIVATIONS[name](values()), ACT2FN[name](values()), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "linear"])
def test_onnxruntime(name: str) -> None:
    check(ACTIVATIONS[name], values(), operator=FUSED.get(name))
