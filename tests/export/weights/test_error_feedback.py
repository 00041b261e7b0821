"""Rounding with error feedback: products are nearer, in the same bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pumice.export.recipes.recipe import Storage
from pumice.export.weights.error_feedback import Inputs, inputs_of
from pumice.export.weights.quantization import quantize_rows
from tests.dequantize import dequantize_rows


def correlated(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    """Activations of a few directions, and of a few large channels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width // 4, generator=generator) @ torch.randn(
        width // 4, width, generator=generator
    )
    x[:, ::37] *= 20
    return x


def storage(**keys: Any) -> Storage:
    return Storage(**{"weights": "int4", "search": "activations", "block_size": 32} | keys)


def error(weights: torch.Tensor, x: torch.Tensor, how: Storage, inputs: Inputs | None) -> float:
    stored = dequantize_rows(quantize_rows(weights, how, inputs=inputs), how, weights.shape[1])
    return float(((stored - weights) @ x.T).square().sum() / (weights @ x.T).square().sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("width", "block"), [(128, 32), (200, 64), (96, 128)])
def test_products_are_nearer(width: int, block: int, symmetric: bool) -> None:
    """Also on other activations of the same kind, which is what counts."""
    how = storage(block_size=block, symmetric=symmetric)
    weights = torch.randn(64, width, generator=torch.Generator().manual_seed(1))
    seen, unseen = correlated(4096, width).split(2048)
    moments = seen.T @ seen / len(seen)
    plain = error(weights, unseen, how, None)
    weighted = error(weights, unseen, how, inputs_of(moments.diagonal()))
    fed_back = error(weights, unseen, how, inputs_of(moments))
    assert fed_back < 0.5 * weighted < 0.5 * plain


@given(rows=st.integers(1, 5), width=st.integers(1, 70), seed=st.integers(0, 99), symmetric=st.booleans())
def test_without_correlations_it_is_plain_rounding(rows: int, width: int, seed: int, symmetric: bool) -> None:
    """A diagonal H has nothing to feed back: the same integers, but for exact halves."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(rows, width, generator=generator)
    moments = torch.rand(width, generator=generator) + 0.1
    how = storage(symmetric=symmetric)
    plain = quantize_rows(weights, how, inputs=inputs_of(moments))
    fed_back = quantize_rows(weights, how, inputs=inputs_of(moments.diag()))
    assert torch.equal(plain.packed, fed_back.packed)
    assert torch.equal(plain.scales, fed_back.scales)


def test_a_channel_that_carries_nothing_does_not_stop_it() -> None:
    x = correlated(512, 64)
    x[:, 7] = 0
    found = inputs_of(x.T @ x / 512)
    assert found.factor is not None
    assert found.factor.isfinite().all()
    assert error(torch.randn(8, 64), x, storage(), found) < 0.1


def test_columns_that_carry_most_come_first() -> None:
    x = correlated(512, 128)
    found = inputs_of(x.T @ x)
    assert found.order is not None
    carried = found.importance[found.order]
    assert (carried[:-1] >= carried[1:]).all()


def test_rows_do_not_depend_on_each_other() -> None:
    x = correlated(256, 96)
    inputs, weights = inputs_of(x.T @ x / 256), torch.randn(10, 96)
    whole = quantize_rows(weights, storage(), inputs=inputs)
    parts = [quantize_rows(part, storage(), inputs=inputs) for part in weights.split(3)]
    assert torch.equal(whole.packed, torch.cat([part.packed for part in parts]))


@pytest.mark.parametrize("wide", [16, 4096])
def test_ill_conditioned_moments_still_give_a_factor(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Massive channels, fewer tokens than channels; in either arithmetic."""
    monkeypatch.setattr("pumice.export.weights.error_feedback.WIDE", wide)
    x = correlated(20, 128)
    x[:, 3] *= 1e4
    found = inputs_of(x.T @ x / 20)
    assert found.factor is not None
    assert found.factor.isfinite().all()


def test_moments_that_cannot_be_inverted_only_weigh() -> None:
    found = inputs_of(torch.full((8, 8), float("nan")))
    assert found.factor is None
