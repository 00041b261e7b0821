"""What can be told without gguf: activations, and products of weights that are given."""

from __future__ import annotations

import pytest
import torch

from bench.real.peers import BLOCK, Product, Stored, rounded

GENERATOR = torch.Generator().manual_seed(0)


def test_activations_are_rounded_block_by_block() -> None:
    x = torch.randn(3, 5 * BLOCK, generator=GENERATOR)
    x[:, :BLOCK] *= 1000
    near, _ = rounded(x)
    error = (near - x).abs().unflatten(-1, (-1, BLOCK)).amax(-1)
    largest = x.abs().unflatten(-1, (-1, BLOCK)).amax(-1)
    # half a step, and what float16 rounds off the scale
    assert (error <= largest / 127 * 0.5 + largest * 2**-11).all()
    assert (error[:, 1:] < 0.05).all()
    assert (error > 0).all()


def test_a_blocks_whole_numbers_and_scale_are_kept() -> None:
    x = torch.arange(-127.0, 128.0, 8)[None] / 4
    assert x.shape == (1, BLOCK)
    near, sums = rounded(x)
    torch.testing.assert_close(near, x, rtol=0, atol=0)  # the scale is 1/4: exact in float16
    torch.testing.assert_close(sums, x.sum(-1, keepdim=True), rtol=0, atol=0)


def test_blocks_of_zeros_stay() -> None:
    near, sums = rounded(torch.zeros(2, BLOCK))
    assert not near.any()
    assert not sums.any()


@pytest.mark.parametrize("minima", [False, True])
def test_products(minima: bool) -> None:
    """Beside the plain product: as near as 8 bits are, with minima too."""
    x, weight = torch.randn(4, 2 * BLOCK, generator=GENERATOR), torch.randn(6, 2 * BLOCK, generator=GENERATOR)
    lowest = weight.unflatten(-1, (-1, BLOCK)).amin(-1) if minima else None
    found = Product(Stored(bytes_=0, weight=weight, minima=lowest))(x)
    exact = x @ weight.T
    assert 1e-5 < ((found - exact).norm() / exact.norm()).item() < 0.01


def test_minima_meet_the_rounded_sums() -> None:
    """With a weight that is its minimum throughout, the product is m·s."""
    x = torch.randn(4, BLOCK, generator=GENERATOR)
    stored = Stored(bytes_=0, weight=torch.full((1, BLOCK), -0.5), minima=torch.full((1, 1), -0.5))
    torch.testing.assert_close(Product(stored)(x), -0.5 * rounded(x)[1], rtol=1e-5, atol=1e-5)
