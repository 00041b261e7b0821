"""Rounding with error feedback: what a column's rounding spoils, later columns make good (GPTQ, arXiv:2210.17323).

Enters: rows of a matrix in float32, their blocks' scales, and the second moments H = E[x·xᵀ] of the matrix's input.
Leaves: integers for which the products' error, (W' − W)·H·(W' − W)ᵀ, is small rather than that of single weights.

With U upper triangular and UᵀU = H⁻¹, column j is rounded, and its error goes to the columns k after it:

    e = (w_j − w'_j) / U_jj        w_k ← w_k − e·U_jk

Columns that carry most come first, for they have most others left to mend them. A block keeps its scale throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = (0.01, 0.1, 1.0)
"""Of the mean of H's diagonal, added to it: a few thousand tokens say little of single pairs of channels. The first for
which H can be inverted."""
WIDE = 4096
"""Channels beyond which H is inverted in float32: in float64 a 7B's widest would take 4 GB."""
COLUMNS = 64
"""Columns after which those behind are mended, all at once."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is known of a matrix's input: the `importance` E[x²] of its K channels, shape = (K,), float32.

    With feedback also the `order` in which columns are rounded, int64 [K], and the `factor` U in that order, [K, K].
    """

    importance: Tensor
    order: Tensor | None = None
    factor: Tensor | None = None


def inputs_of(moments: Tensor) -> Inputs:
    """From second moments, of which (K,) are the diagonal alone."""
    if moments.dim() == 1:
        return Inputs(importance=moments)
    carried = moments.diagonal().clone()
    order = carried.argsort(descending=True)
    for damping in DAMPING:
        factor = _factor(moments[order][:, order], damping * float(carried.mean()))
        if factor is not None:
            return Inputs(importance=carried, order=order, factor=factor)
    return Inputs(importance=carried)


def _factor(h: Tensor, damping: float) -> Tensor | None:
    """U with UᵀU = (H + damping)⁻¹, float32 [K, K]; None where that has none in the arithmetic at hand."""
    h = h.double() if len(h) <= WIDE else h
    h.diagonal().add_(damping)
    lower, failed = torch.linalg.cholesky_ex(h)
    del h
    if failed:
        return None
    inverse = torch.cholesky_inverse(lower)
    del lower
    upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
    return None if failed or not upper.isfinite().all() else upper.float()


def round_with_feedback(
    rows: Tensor, scales: Tensor, zero_points: Tensor, inputs: Inputs, bits: int, block_size: int
) -> Tensor:
    """Integers 0 … 2^bits − 1 as float32, shape = (R, K).

    Args:
        rows: float32 [R, K].
        scales, zero_points: of every block, float32 [R, blocks].
        inputs: with an order and a factor.
    """
    order, factor = inputs.order, inputs.factor
    assert order is not None
    assert factor is not None
    left, q = rows[:, order], torch.empty_like(rows)
    blocks = order // block_size
    inverse = torch.where(scales == 0, 0.0, 1 / scales)
    top = (1 << bits) - 1
    for start in range(0, len(order), COLUMNS):
        stop = min(start + COLUMNS, len(order))
        errors = torch.empty(len(rows), stop - start)
        for j in range(start, stop):
            block, weights = blocks[j], left[:, j]
            zero = zero_points[:, block]
            rounded = (weights * inverse[:, block]).add_(zero).round_().clamp_(0, top)
            q[:, order[j]] = rounded
            error = (weights - (rounded - zero) * scales[:, block]) / factor[j, j]
            left[:, j:stop] -= error[:, None] * factor[j, j:stop]
            errors[:, j - start] = error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return q
