"""Quantised blocks: our bytes are ONNX Runtime's, and stand for what we say they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits

from pumice.export.recipes.recipe import Storage
from pumice.export.recipes.storage import bytes_of
from pumice.export.weights.quantization import Blocks, quantize_rows
from tests.dequantize import dequantize_rows

INT4, INT8 = Storage(weights="int4"), Storage(weights="int8")


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def by_onnxruntime(weights: torch.Tensor, storage: Storage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = weights.shape
    blocks = -(-columns // storage.block_size)
    padded = np.zeros((blocks * storage.block_size, rows), np.float32)
    padded[:columns] = weights.numpy().T
    bits = storage.bits or 0
    packed = np.zeros((rows, blocks, storage.block_size * bits // 8), np.uint8)
    scales = np.zeros(rows * blocks, np.float32)
    zero_points = np.zeros(rows * (-(-blocks * bits // 8)), np.uint8)
    quantize = quantize_matmul_4bits if bits == 4 else quantize_matmul_8bits
    quantize(packed, padded, scales, zero_points, storage.block_size, rows, len(padded), storage.symmetric)
    return packed, scales.reshape(rows, blocks), zero_points.reshape(rows, -1)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("rows", "columns", "block"),
    [(96, 64, 32), (33, 16, 16), (64, 256, 128), (7, 192, 64), (9, 100, 32), (3, 256, 256)],
)
def test_same_bytes_as_onnxruntime(
    rows: int, columns: int, block: int, dtype: torch.dtype, weights: Any, symmetric: bool
) -> None:
    """Narrow types have ties, of largest values and in rounding, which are decided as it does."""
    storage = Storage(weights=weights, block_size=block, symmetric=symmetric)
    given = matrix(rows, columns).to(dtype)
    blocks = quantize_rows(given, storage)
    packed, scales, zero_points = by_onnxruntime(given.float(), storage)
    assert np.array_equal(blocks.packed.numpy(), packed)
    assert np.array_equal(blocks.scales.numpy(), scales)
    if symmetric:
        assert blocks.zero_points is None
    else:
        assert blocks.zero_points is not None
        assert np.array_equal(blocks.zero_points.numpy(), zero_points)


STORAGES = st.builds(
    Storage,
    weights=st.sampled_from(["int4", "int8"]),
    block_size=st.sampled_from([16, 32, 64]),
    symmetric=st.booleans(),
    search=st.sampled_from(["none", "k-quant"]),
)


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 100),
    storage=STORAGES,
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_error_is_at_most_one_step(
    rows: int, columns: int, storage: Storage, seed: int, scale: float
) -> None:
    """Half a step inside, a whole one at the ends of the scale; more only where a search clips."""
    weights = matrix(rows, columns, seed) * scale
    blocks = quantize_rows(weights, storage)
    count, bits = -(-columns // storage.block_size), storage.bits or 0
    assert blocks.packed.shape == (rows, count, storage.block_size * bits // 8)
    steps = blocks.scales.abs().repeat_interleave(storage.block_size, dim=1)[:, :columns]
    error = (dequantize_rows(blocks, storage, columns) - weights).abs()
    if storage.search == "none":
        assert (error <= steps * 1.0001).all()
    else:
        half = (error <= steps * 0.5001).float().mean()
        assert half > 0.5


@given(columns=st.integers(1, 100), storage=STORAGES, seed=st.integers(0, 2**16))
def test_search_is_never_worse(columns: int, storage: Storage, seed: int) -> None:
    """By the importance that it minimises."""
    weights = matrix(4, columns, seed)
    count = -(-columns // storage.block_size)
    padded = torch.nn.functional.pad(weights, (0, count * storage.block_size - columns))
    squares = padded.view(4, count, -1).square()
    importance = (squares + squares.mean(2, keepdim=True)).flatten(1)[:, :columns]

    def error(search: Any) -> torch.Tensor:
        changed = Storage(
            weights=storage.weights, block_size=storage.block_size, symmetric=storage.symmetric, search=search
        )
        restored = dequantize_rows(quantize_rows(weights, changed), changed, columns)
        return float((importance * (restored - weights).square()).sum())

    assert error("k-quant") <= error("none") * 1.0001 + 1e-12


@pytest.mark.parametrize("symmetric", [True, False])
def test_search_finds_better_scales(symmetric: bool) -> None:
    weights = matrix(64, 256)
    errors = []
    for search in ("none", "k-quant"):
        storage = Storage(weights="int4", symmetric=symmetric, search=search)  # type: ignore[arg-type]
        restored = dequantize_rows(quantize_rows(weights, storage), storage, 256)
        errors.append(float((restored - weights).square().mean()))
    assert errors[1] < 0.97 * errors[0]


def test_largest_value_is_exact() -> None:
    weights = matrix(4, 32)
    restored = dequantize_rows(quantize_rows(weights, INT4), INT4, 32)
    largest = weights.abs().argmax(dim=1)
    rows = torch.arange(4)
    np.testing.assert_allclose(restored[rows, largest], weights[rows, largest], rtol=1e-6)


@pytest.mark.parametrize("search", ["none", "k-quant"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_stay_zeros(symmetric: bool, search: Any) -> None:
    storage = Storage(weights="int4", symmetric=symmetric, search=search)
    blocks = quantize_rows(torch.zeros(2, 40), storage)
    assert not dequantize_rows(blocks, storage, 40).any()


def parts_of(blocks: Blocks) -> list[torch.Tensor]:
    return [part for part in (blocks.packed, blocks.scales, blocks.zero_points) if part is not None]


@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_can_be_quantised_apart(symmetric: bool) -> None:
    """What makes streaming possible: a row's bytes depend on that row alone."""
    storage = Storage(weights="int4", symmetric=symmetric)
    weights = matrix(10, 96)
    apart = [parts_of(quantize_rows(weights[start : start + 3], storage)) for start in range(0, 10, 3)]
    for whole, *parts in zip(parts_of(quantize_rows(weights, storage)), *apart, strict=True):
        assert torch.equal(whole, torch.cat(parts))


def test_transposed_memory_is_read_right() -> None:
    weights = matrix(64, 96)
    turned = weights.T.contiguous().T
    assert torch.equal(quantize_rows(turned, INT4).packed, quantize_rows(weights, INT4).packed)


def test_input_is_left_alone() -> None:
    weights = matrix(3, 64)
    before = weights.clone()
    quantize_rows(weights, INT8)
    assert torch.equal(weights, before)


def test_scales_are_rounded_before_they_are_used() -> None:
    """Integers fit the float16 scale that is stored, not the one that was computed."""
    weights = matrix(16, 64) * 1e-3
    blocks = quantize_rows(weights, INT8, torch.float16)
    assert blocks.scales.dtype == torch.float16
    error = (dequantize_rows(blocks, INT8, 64) - weights).abs()
    steps = blocks.scales.float().abs().repeat_interleave(32, dim=1)
    inside = weights.abs() < 127 * steps
    assert (error[inside] <= 0.5001 * steps[inside]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows_in_the_scales(value: float) -> None:
    weights = matrix(2, 64)
    weights[1, 40] = value
    scales = quantize_rows(weights, INT4).scales
    assert scales[0].isfinite().all()
    assert not scales[1].isfinite().all()


@given(storage=STORAGES, rows=st.integers(1, 5), columns=st.integers(1, 90))
def test_bytes_are_known_beforehand(storage: Storage, rows: int, columns: int) -> None:
    blocks = quantize_rows(matrix(rows, columns), storage, torch.float16)
    assert bytes_of(rows, columns, storage, 2) == sum(part.nbytes for part in parts_of(blocks))
