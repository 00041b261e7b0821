"""Blocks of integers that a checkpoint has already: its own integers, scales and zero points, none rounded again.

Enters: a `Weight` whose tensors are `IntegerMatrix`es. Leaves: a `Parameter` in MatMulNBits' bytes. A group wider than
a block becomes several blocks with the same scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from pumice.errors import CheckpointError
from pumice.export.checkpoint.integer_matrix import MIDDLE, IntegerMatrix, IntegerRows
from pumice.export.recipes.recipe import Storage
from pumice.export.weights.parameters import Parameter, Piece
from pumice.export.weights.quantization import Blocks, packed, packed_points, quantized_names
from pumice.models.weights import Weight, cut


def stored_parameter(
    name: str, weight: Weight, matrices: Mapping[str, IntegerMatrix], storage: Storage, dtype: torch.dtype
) -> Parameter:
    """A matrix with the checkpoint's own blocks, and scales as `dtype`."""
    pieces = tuple(
        Piece(nbytes=8 * count, make=partial(_piece, source, start, stop, matrices[source], storage, dtype))
        for source, start, stop, count in cut(weight)
    )
    return Parameter(names=quantized_names(name, storage), pieces=pieces)


def _piece(
    source: str, start: int, stop: int, matrix: IntegerMatrix, storage: Storage, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    rows = matrix.integers(start, stop)
    scales = rows.scales.to(dtype)
    if not scales.isfinite().all():
        raise CheckpointError(f"tensor {source} has scales that {_said(dtype)} does not hold: {_FP32}")
    if not torch.equal(scales.double(), rows.scales.double()):
        raise CheckpointError(
            f"tensor {source} has {_said(rows.scales.dtype)} scales, which {_said(dtype)} would round: {_FP32}"
        )
    blocks = stored_blocks(rows, matrix.group, storage, scales)
    return blocks.packed, blocks.scales, *(() if blocks.zero_points is None else (blocks.zero_points,))


def stored_blocks(rows: IntegerRows, group: int, storage: Storage, scales: Tensor) -> Blocks:
    """Rows in groups as blocks; the last block of a row is filled up with zero points."""
    size, columns = storage.block_size, rows.q.shape[1]
    blocks = -(-columns // size)
    count = blocks if group == columns else group // size
    scales = scales.repeat_interleave(count, 1)
    points = None if rows.zero_points is None else rows.zero_points.repeat_interleave(count, 1)
    missing = blocks * size - columns
    if missing:
        ends = torch.full((len(rows.q), 1), MIDDLE, dtype=torch.uint8) if points is None else points[:, -1:]
        q = torch.cat([rows.q, ends.expand(-1, missing)], dim=1)
    else:
        q = rows.q
    return Blocks(
        packed=packed(q.contiguous().view(len(q), blocks, size), 4),
        scales=scales,
        zero_points=None if points is None else packed_points(points, 4),
    )


_FP32 = "take a recipe with float_type fp32 or the scales' own"


def _said(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
