"""A file's own integers as blocks: what they stand for stays, however wide the file's groups are.

Oracle: (q − z) · s. Tolerance: none.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pumice.export.checkpoint.integer_matrix import IntegerRows
from pumice.export.recipes.recipe import BLOCK_SIZES, Storage
from pumice.export.weights.kept_integers import _storage
from pumice.export.weights.stored_blocks import stored_blocks
from tests.dequantize import _unpacked, dequantize_rows

RECIPES = Storage(weights="int4", block_size=32, search="k-quant")


class Matrix:
    """Random integers, scales, and zero points or none."""

    kind = "int4"

    def __init__(self, rows: int, columns: int, group: int, *, symmetric: bool) -> None:
        generator = torch.Generator().manual_seed(columns + group)
        shape = rows, columns // group
        self.group, self.symmetric, self.info = group, symmetric, Info((rows, columns))
        self.q = torch.randint(16, (rows, columns), generator=generator, dtype=torch.uint8)
        self.scales = torch.rand(shape, generator=generator).half()
        self.points = torch.randint(16, shape, generator=generator, dtype=torch.uint8)

    def integers(self) -> IntegerRows:
        return IntegerRows(q=self.q, scales=self.scales, zero_points=None if self.symmetric else self.points)

    def values(self) -> torch.Tensor:
        """By single numbers."""
        points = torch.full_like(self.points, 8) if self.symmetric else self.points
        at = torch.arange(self.q.shape[1]) // self.group
        return (self.q.float() - points[:, at].float()) * self.scales[:, at].float()


class Info:
    """Where a matrix is: its shape."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero points"])
@pytest.mark.parametrize(
    ("columns", "group", "block"),
    [
        (64, 16, 16),
        (256, 128, 128),
        (144, 48, 16),  # three blocks have a group's scale
        (1024, 512, 256),
        (192, 96, 32),
        (64, 64, 64),
        (48, 48, 128),  # whole rows, which end in the middle of a block
        (200, 200, 128),
        (512, 512, 128),
    ],
)
def test_values_stay(columns: int, group: int, block: int, symmetric: bool) -> None:
    matrix: Any = Matrix(5, columns, group, symmetric=symmetric)
    storage = _storage(RECIPES, matrix)
    assert storage is not None
    assert (storage.block_size, storage.symmetric) == (block, symmetric)
    assert block in BLOCK_SIZES
    rows = matrix.integers()
    blocks = stored_blocks(rows, group, storage, rows.scales.float())
    assert (blocks.zero_points is None) == symmetric
    assert torch.equal(dequantize_rows(blocks, storage, columns), matrix.values())
    beyond = dequantize_rows(blocks, storage, -(-columns // block) * block)[:, columns:]
    assert not beyond.any()
    if blocks.zero_points is not None:
        assert _unpacked(blocks.zero_points, 4).shape[1] in (
            blocks.scales.shape[1],
            blocks.scales.shape[1] + 1,
        )


@pytest.mark.parametrize(("columns", "group"), [(64, 8), (96, 24), (200, 100)])
def test_groups_that_are_no_blocks(columns: int, group: int) -> None:
    matrix: Any = Matrix(3, columns, group, symmetric=True)
    assert _storage(RECIPES, matrix) is None
