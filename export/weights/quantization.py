"""Block-wise weight quantisation: the arithmetic.

Every row of a [rows, columns] matrix is cut into blocks of `block_size` columns; a block stores small integers q, one
scale s and, unless it is symmetric, one zero point z, and stands for s·(q − z). The bytes are those of ONNX Runtime's
`MatMulNBits` and `GatherBlockQuantized` (both described in its docs/ContribOperators.md), so a tied table serves both.

    4 bits    a byte holds two columns (or two blocks' zero points), the even one in the low half
    8 bits    a byte holds one
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pumice.export.recipes.recipe import Storage
from pumice.export.weights.error_feedback import Inputs, round_with_feedback
from pumice.export.weights.scale_search import search_asymmetric, search_symmetric

CACHED_VALUES = 1 << 18
"""Values that are worked on at a time, so that they stay in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A quantised matrix: uint8 `packed` [rows, blocks, bytes], `scales` [rows, blocks], uint8 `zero_points` [rows, n].

    Symmetric blocks have no zero points stored; theirs is 2^(bits − 1).
    """

    packed: Tensor
    scales: Tensor
    zero_points: Tensor | None


def quantize_rows(
    matrix: Tensor,
    storage: Storage,
    scale_type: torch.dtype = torch.float32,
    inputs: Inputs | None = None,
) -> Blocks:
    """Quantise a matrix [rows, columns] of any float type; scales are rounded to `scale_type` before they are used.

    The last block is padded with zeros; halves are rounded up. Rows do not depend on each other. Values that are not
    finite make scales that are not. `inputs` is what is known of the matrix's input: it weighs errors, and errors are
    fed back where it has a factor.
    """
    rows, columns = matrix.shape
    step = rows if inputs is not None and inputs.factor is not None else max(1, CACHED_VALUES // columns)
    parts = [
        _quantize(matrix[start : start + step], storage, scale_type, inputs) for start in range(0, rows, step)
    ]
    zero_points = [part.zero_points for part in parts if part.zero_points is not None]
    return Blocks(
        packed=torch.cat([part.packed for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        zero_points=torch.cat(zero_points) if zero_points else None,
    )


def quantize_outputs(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise a matrix [rows, columns] with one scale a row: int8 of the same shape, and float32 scales [rows].

    The value of largest magnitude becomes ±127. Rows that are not finite make scales that are not.
    """
    wide = matrix.float()
    scales = wide.abs().amax(1).div_(127)
    return (wide * inverse(scales)[:, None]).round_().to(torch.int8), scales


def _quantize(matrix: Tensor, storage: Storage, scale_type: torch.dtype, inputs: Inputs | None) -> Blocks:
    assert storage.bits is not None
    bits = storage.bits
    groups = blocks_of(matrix, storage.block_size)
    importance = _importance(inputs, groups) if storage.search != "none" else None
    if storage.symmetric:
        scales = (
            symmetric_scales(groups, bits)
            if storage.search == "none"
            else search_symmetric(groups, bits, importance)
        )
        points, zero_points = torch.full_like(scales, 1 << bits - 1), None
    else:
        scales, points = (
            asymmetric_scales(groups, bits)
            if storage.search == "none"
            else search_asymmetric(groups, bits, importance)
        )
        zero_points = packed_points(points.to(torch.uint8), bits)
    scales = scales.to(scale_type)
    if inputs is not None and inputs.factor is not None:
        columns = matrix.shape[1]
        q = points[:, :, None].expand(groups.shape).flatten(1).clone()
        q[:, :columns] = round_with_feedback(
            groups.flatten(1)[:, :columns], scales.float(), points, inputs, bits, storage.block_size
        )
        q = q.view(groups.shape)
    else:
        q = groups.mul_(inverse(scales)[:, :, None]).add_(points[:, :, None])
        q.add_(0.5).clamp_(0, (1 << bits) - 0.5)
    return Blocks(packed=packed(q.to(torch.uint8), bits), scales=scales, zero_points=zero_points)


def _importance(inputs: Inputs | None, groups: Tensor) -> Tensor | None:
    """Of the channels in blocks, float32 [blocks, block size]; what pads a block counts nothing."""
    if inputs is None:
        return None
    return F.pad(inputs.importance, (0, groups[0].numel() - len(inputs.importance))).view(groups.shape[1:])


def symmetric_scales(groups: Tensor, bits: int) -> Tensor:
    """Scales [rows, blocks] of float32 [rows, blocks, block size]: ONNX Runtime's own rule.

    The value of largest magnitude in a block becomes −2^(bits − 1)·s exactly, so that a block uses all steps on its
    heavier side; of two such values the negative one.
    """
    largest, smallest = groups.amax(2), groups.amin(2)
    return torch.where(largest > -smallest, largest, smallest).div_(-(1 << bits - 1))


def asymmetric_scales(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scales and zero points, both float32 [rows, blocks]: a block's range, with 0 in it, is cut into equal steps."""
    largest, smallest = groups.amax(2).clamp_(min=0), groups.amin(2).clamp_(max=0)
    scales = (largest - smallest).div_((1 << bits) - 1)
    zero_points = torch.where(scales == 0, 0.0, -smallest / scales)
    return scales, zero_points.add_(0.5).floor_().clamp_(0, (1 << bits) - 1)


def inverse(scales: Tensor) -> Tensor:
    """1/s in float32, and 0 where s is 0."""
    wide = scales.float()
    return torch.where(wide == 0, 0.0, 1 / wide)


def blocks_of(matrix: Tensor, block_size: int) -> Tensor:
    """[rows, columns] → float32 [rows, blocks, block size] in memory of its own."""
    rows, columns = matrix.shape
    missing = -columns % block_size
    groups = (
        F.pad(matrix.float(), (0, missing))
        if missing
        else matrix.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    )
    return groups.view(rows, -1, block_size)


def packed_points(points: Tensor, bits: int) -> Tensor:
    """Zero points [rows, blocks] → [rows, bytes]; where a byte would be half empty, it gets an 8."""
    return packed(F.pad(points, (0, points.shape[1] % 2), value=8) if bits == 4 else points, bits)


def packed(q: Tensor, bits: int) -> Tensor:
    """uint8 [..., n] → [..., n·bits/8]."""
    if bits == 8:
        return q
    pairs = q.view(torch.int16)  # even column in the low byte
    return (pairs | (pairs >> 4)).to(torch.uint8)


def quantized_names(name: str, storage: Storage) -> tuple[str, ...]:
    """The initializers that a quantised parameter becomes."""
    zero_point = () if storage.symmetric or storage.by_column else (f"{name}.zero_point",)
    return f"{name}.{storage.weights}", f"{name}.scale", *zero_point
