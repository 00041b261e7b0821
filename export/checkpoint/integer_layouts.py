"""Which tensors make up a matrix in 4-bit integers, and whether they fit each other, by format.

Enters: the name of the tensor with the integers, all tensors, and what `config.json` says. Leaves: an `IntegerMatrix`,
and the last parts of the names that it is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from pumice.errors import CheckpointError
from pumice.export.checkpoint.integer_matrix import AWQ_ORDER, ByColumns, ByRows, Ordered, Recent
from pumice.export.checkpoint.tensor_file import DTYPES, TensorInfo, read_whole

_ROW_PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")
_COLUMN_PARTS = ("qweight", "qzeros", "scales", "g_idx")
FLOAT = "use the checkpoint with float weights"


def by_rows(name: str, tensors: Mapping[str, TensorInfo]) -> tuple[ByRows, tuple[str, ...]]:
    """A matrix of compressed-tensors' pack-quantized. Raises CheckpointError."""
    words, shape = tensors[name], _part(name, "weight_shape", tensors)
    if shape.dtype not in ("I32", "I64") or shape.shape != (2,) or len(words.shape) != 2:
        raise _unfit(name, words, "expected words of a matrix, and weight_shape with two integers")
    rows, columns = (int(n) for n in read_whole(shape).tolist())
    if words.dtype != "I32" or words.shape != (rows, -(-columns // 8)):
        raise _unfit(name, words, f"expected [{rows}, {-(-columns // 8)}] words of eight 4-bit integers")
    if _beside(name, "weight_g_idx") in tensors:
        raise _unfit(name, words, f"its columns are in an order of their own (weight_g_idx): {FLOAT}")
    scales = _part(name, "weight_scale", tensors)
    groups = scales.shape[-1] if scales.shape else 0
    _check_scales(name, scales, (rows, groups), groups, columns)
    points = tensors.get(_beside(name, "weight_zero_point"))
    if points is not None and (points.dtype, points.shape) != ("I32", (-(-rows // 8), groups)):
        raise _unfit(name, points, f"expected [{-(-rows // 8)}, {groups}] words of zero points")
    info = replace(words, shape=(rows, columns))
    return ByRows(info=info, words=words, scales=scales, zero_points=points), _ROW_PARTS


def awq(name: str, tensors: Mapping[str, TensorInfo], recent: Recent) -> tuple[ByColumns, tuple[str, ...]]:
    """A matrix of AWQ's gemm layout. Raises CheckpointError."""
    words = tensors[name]
    if words.dtype != "I32" or len(words.shape) != 2:
        raise _unfit(name, words, "expected words of a matrix")
    columns, rows = words.shape[0], 8 * words.shape[1]
    made = _by_columns(name, tensors, rows, columns)
    return replace(made, along=1, order=AWQ_ORDER, recent=recent), _COLUMN_PARTS[:3]


def gptq(
    name: str, tensors: Mapping[str, TensorInfo], said: Mapping[str, Any], recent: Recent
) -> tuple[ByColumns | Ordered, tuple[str, ...]]:
    """A matrix of GPTQ, with an order of its own or without. Raises CheckpointError."""
    words = tensors[name]
    if words.dtype != "I32" or len(words.shape) != 2:
        raise _unfit(name, words, "expected words of a matrix")
    columns, rows = 8 * words.shape[0], words.shape[1]
    made = _by_columns(name, tensors, rows, columns)
    offset = 0 if said.get("checkpoint_format") == "gptq_v2" else 1
    made = replace(made, symmetric=said.get("sym") is True, offset=offset, recent=recent)
    index = tensors.get(_beside(name, "g_idx"))
    if index is None:
        return made, _COLUMN_PARTS
    groups = columns // made.group
    if index.dtype not in ("I32", "I64") or index.shape != (columns,):
        raise _unfit(name, index, f"expected g_idx with a group for each of {columns} columns")
    found = read_whole(index).long()
    if not 0 <= int(found.min()) <= int(found.max()) < groups:
        raise _unfit(name, index, f"its g_idx names others than the {groups} groups: {FLOAT}")
    in_order = torch.equal(found, torch.arange(columns) // made.group)
    return made if in_order else Ordered(matrix=made, index=index), _COLUMN_PARTS


def _by_columns(name: str, tensors: Mapping[str, TensorInfo], rows: int, columns: int) -> ByColumns:
    """Scales and zero points, which both have the same way."""
    scales, points = _part(name, "scales", tensors), _part(name, "qzeros", tensors)
    groups = scales.shape[0] if scales.shape else 0
    _check_scales(name, scales, (groups, rows), groups, columns)
    if rows % 8 or (points.dtype, points.shape) != ("I32", (groups, rows // 8)):
        raise _unfit(name, points, f"expected [{groups}, {rows // 8}] words of zero points")
    info = replace(tensors[name], shape=(rows, columns))
    return ByColumns(
        info=info, words=tensors[name], scales=scales, zero_points=points, symmetric=False, along=0
    )


def _check_scales(
    name: str, scales: TensorInfo, expected: tuple[int, int], groups: int, columns: int
) -> None:
    if scales.dtype not in DTYPES or scales.shape != expected or not groups or columns % groups:
        raise _unfit(name, scales, "expected float scales, one for each row and group of columns")


def _part(name: str, part: str, tensors: Mapping[str, TensorInfo]) -> TensorInfo:
    try:
        return tensors[_beside(name, part)]
    except KeyError:
        raise CheckpointError(
            f"{tensors[name].file}: tensor {name!r} has no {part} beside it: download or convert it again"
        ) from None


def _beside(name: str, part: str) -> str:
    return f"{name.rpartition('.')[0]}.{part}"


def _unfit(name: str, info: TensorInfo, told: str) -> CheckpointError:
    return CheckpointError(f"{info.file}: at {name!r} is {info.dtype} {list(info.shape)}: {told}")
