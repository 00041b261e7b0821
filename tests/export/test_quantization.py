"""4-bit blocks: our bytes are ONNX Runtime's, and stand for what we say they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.capi._pybind_state import quantize_matmul_4bits

from pumice.errors import UsageError
from pumice.export.quantization import Int4, dequantize_rows, quantize_rows


def matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "columns", "block"), [(96, 64, 32), (33, 16, 16), (64, 256, 128), (7, 192, 64)]
)
def test_same_bytes_as_onnxruntime(rows: int, columns: int, block: int) -> None:
    weights = matrix(rows, columns)
    packed, scales = quantize_rows(weights, block)
    theirs = np.zeros_like(packed)
    their_scales = np.zeros(scales.size, np.float32)
    zero_points = np.zeros(rows * (-(-scales.shape[1] // 2)), np.uint8)
    transposed = np.ascontiguousarray(weights.T)
    quantize_matmul_4bits(theirs, transposed, their_scales, zero_points, block, rows, columns, True)
    assert np.array_equal(packed, theirs)
    assert np.array_equal(scales.ravel(), their_scales)


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 100),
    block=st.sampled_from([16, 32, 64]),
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_error_is_at_most_one_step(rows: int, columns: int, block: int, seed: int, scale: float) -> None:
    """Half a step inside, a whole one only at the end of the scale opposite the largest value."""
    weights = matrix(rows, columns, seed) * np.float32(scale)
    packed, scales = quantize_rows(weights, block)
    assert packed.shape == (rows, -(-columns // block), block // 2)
    steps = np.repeat(np.abs(scales), block, axis=1)[:, :columns]
    error = np.abs(dequantize_rows(packed, scales, columns) - weights)
    assert (error <= steps * 1.0001).all()


def test_largest_value_is_exact() -> None:
    weights = matrix(4, 32)
    packed, scales = quantize_rows(weights, 32)
    largest = np.abs(weights).argmax(axis=1)
    restored = dequantize_rows(packed, scales, 32)
    rows = np.arange(4)
    np.testing.assert_allclose(restored[rows, largest], weights[rows, largest], rtol=1e-6)


def test_zeros_stay_zeros() -> None:
    packed, scales = quantize_rows(np.zeros((2, 40), np.float32), 32)
    assert not dequantize_rows(packed, scales, 40).any()


def test_rows_can_be_quantised_apart() -> None:
    """What makes streaming possible: a row's bytes depend on that row alone."""
    weights = matrix(10, 96)
    whole = quantize_rows(weights, 32)
    parts = [quantize_rows(weights[start : start + 3], 32) for start in range(0, 10, 3)]
    for index, array in enumerate(whole):
        assert np.array_equal(array, np.concatenate([part[index] for part in parts]))


@pytest.mark.parametrize("block", [0, 8, 33, 512])
def test_block_sizes_are_checked(block: int) -> None:
    with pytest.raises(UsageError, match=f"block size is {block}, expected 16, 32"):
        Int4(block_size=block)
