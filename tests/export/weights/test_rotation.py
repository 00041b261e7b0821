"""The rotated model is the same model: every logit stays, for any width, tied or not, with any biases and norms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pumice.export.weights.rotation import Rotation, rotate
from tests import oracle
from tests.factory import Text, make_checkpoint


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 400), seed=st.integers(0, 9))
def test_is_orthonormal(width: int, seed: int) -> None:
    rotation = Rotation(width, seed)
    matrix = rotation.turn(torch.eye(width))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(width), atol=3e-6, rtol=0)
    x = torch.randn(3, 2, width)
    torch.testing.assert_close(rotation.turn(x), x @ matrix, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rotation.turn(x) @ matrix.T, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [64, 192, 896, 1000])
def test_spreads_a_single_channel_over_all(width: int) -> None:
    channel = torch.zeros(width)
    channel[width // 3] = 1.0
    assert Rotation(width).turn(channel).abs().max() < 8 * width**-0.5


@pytest.mark.parametrize(
    "text",
    [
        Text(width=64),
        Text(width=60, heads=6, kv_heads=3, tied=True, attention_bias=True, mlp_bias=True),
        Text(width=105, heads=5, kv_heads=5, head_dim=16, attention_bias=True),
        Text(width=96, heads=4, kv_heads=2, mlp=130, tied=True, layers=3),
    ],
    ids=["64", "60 tied with biases", "105 with biases", "96 tied"],
)
@pytest.mark.parametrize("projector_bias", [True, False], ids=["projector bias", "no projector bias"])
def test_logits_stay(text: Text, projector_bias: bool, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, text=text, projector_bias=projector_bias)
    plain, turned = oracle.ours(folder), oracle.ours(folder, change=rotate)
    assert turned.config.rotated
    ids, pixels = oracle.prompt(plain.config, images=2)
    expected = plain.logits(ids, pixels)
    torch.testing.assert_close(turned.logits(ids, pixels), expected, atol=1e-4, rtol=0)
    assert expected.std() > 1

    embeds = plain.embedding(ids, plain.vision_encoder(pixels))
    matrix = Rotation(text.width).turn(torch.eye(text.width))
    other = turned.embedding(ids, turned.vision_encoder(pixels)) @ matrix.T
    torch.testing.assert_close(other, embeds, atol=2e-5, rtol=0)
