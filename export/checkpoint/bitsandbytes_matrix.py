"""bitsandbytes' matrices in 4 bits: places in a table of 16 numbers, times the largest magnitude of each block.

Enters: where they lie. Leaves: float32 rows. Blocks run over the matrix as it lies in memory, past the ends of rows; a
byte has two places, the first in its upper half. Magnitudes may be quantised in turn: a table of 256 numbers, times a
scale of each larger block, plus an offset. Formulas: bitsandbytes' `dequantize_4bit` and `dequantize_blockwise`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pumice.errors import CheckpointError
from pumice.export.checkpoint.tensor_file import TensorInfo, read_rows, read_whole

_STATE = "quant_state.bitsandbytes__"
KINDS = ("nf4", "fp4")


@dataclass(frozen=True, kw_only=True)
class Magnitudes:
    """Of blocks, in order: float32 `stored`, or with `table`, `scales` of `block` of them each, and `offset`, uint8."""

    stored: TensorInfo
    table: TensorInfo | None = None
    scales: TensorInfo | None = None
    block: int = 1
    offset: float = 0.0

    def read(self, start: int, stop: int) -> Tensor:
        """Those from `start` up to `stop`, float32."""
        found = read_rows(self.stored, start, stop)
        if self.table is None or self.scales is None:
            return found
        scales = read_whole(self.scales)[torch.arange(start, stop) // self.block]
        return (read_whole(self.table)[found.long()] * scales).add_(self.offset)


@dataclass(frozen=True, kw_only=True)
class TableMatrix:
    """`bytes` [all values / 2], `table` [16], and magnitudes of `block` values each."""

    kind: str
    info: TensorInfo
    bytes: TensorInfo
    table: TensorInfo
    magnitudes: Magnitudes
    block: int

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` up to `stop`, float32."""
        width = self.info.shape[1]
        first, last = start * width, stop * width
        pairs = read_rows(self.bytes, first // 2, -(-last // 2))
        skipped = first % 2
        places = torch.stack([pairs >> 4, pairs & 15], dim=1).flatten()[skipped : skipped + last - first]
        above = first // self.block
        magnitudes = self.magnitudes.read(above, -(-last // self.block))
        each = magnitudes[torch.arange(first, last) // self.block - above]
        return (read_whole(self.table)[places.long()] * each).view(stop - start, width)


def table_matrix(name: str, tensors: Mapping[str, TensorInfo]) -> tuple[TableMatrix, tuple[str, ...]]:
    """What the tensor `name` and those beneath it are, and what these are called after their module.

    Raises:
        CheckpointError: parts that are missing or do not fit each other.
    """
    kind = next((kind for kind in KINDS if f"{name}.{_STATE}{kind}" in tensors), None)
    if kind is None:
        raise _unfit(name, tensors, f"expected {_STATE}nf4 or fp4 beneath it")
    shape, block, nested, offset = _state(name, kind, tensors)
    count = math.prod(shape)
    stored, table = _part(name, "absmax", tensors), _part(name, "quant_map", tensors)
    blocks = -(-count // block)
    if math.prod(tensors[name].shape) != -(-count // 2) or table.shape != (16,) or stored.shape != (blocks,):
        raise _unfit(name, tensors, f"expected {count:,} values in blocks of {block}")
    magnitudes = Magnitudes(stored=stored)
    parts = ["absmax", "quant_map", f"{_STATE}{kind}"]
    if nested:
        scales, numbers = _part(name, "nested_absmax", tensors), _part(name, "nested_quant_map", tensors)
        if scales.shape != (-(-blocks // nested),) or numbers.shape != (256,):
            raise _unfit(name, tensors, f"expected {blocks:,} magnitudes in blocks of {nested}")
        magnitudes = Magnitudes(stored=stored, table=numbers, scales=scales, block=nested, offset=offset)
        parts += ["nested_absmax", "nested_quant_map"]
    wanted = {stored: "U8" if nested else "F32", table: "F32"}
    wanted |= {part: "F32" for part in (magnitudes.table, magnitudes.scales) if part is not None}
    if any(info.dtype != dtype for info, dtype in wanted.items()):
        raise _unfit(name, tensors, "expected tables and scales in float32, and nested magnitudes in uint8")
    info = tensors[name]
    made = TableMatrix(
        kind=kind, info=replace(info, shape=shape), bytes=replace(info, shape=(-(-count // 2),)),
        table=table, magnitudes=magnitudes, block=block,
    )  # fmt: skip
    return made, tuple(f"weight.{part}" for part in parts)


def _state(
    name: str, kind: str, tensors: Mapping[str, TensorInfo]
) -> tuple[tuple[int, int], int, int, float]:
    """Shape, values of a block, magnitudes of a block of those (0 if they are not quantised), and their offset."""
    info = tensors[f"{name}.{_STATE}{kind}"]
    try:
        said: Any = json.loads(bytes(read_whole(info).tolist())) if info.dtype == "U8" else None
        (rows, columns), block = said["shape"], said["blocksize"]
        nested, offset = said.get("nested_blocksize", 0), float(said.get("nested_offset", 0))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _unfit(name, tensors, f"its {_STATE}{kind} is damaged") from None
    numbers = (rows, columns, block, nested)
    if not all(type(number) is int for number in numbers) or min(rows, columns, block) < 1 or nested < 0:
        raise _unfit(name, tensors, f"its {_STATE}{kind} says {numbers} of rows, columns and blocks")
    return (rows, columns), block, nested, offset


def _part(name: str, part: str, tensors: Mapping[str, TensorInfo]) -> TensorInfo:
    found = tensors.get(f"{name}.{part}")
    if found is None:
        raise _unfit(name, tensors, f"there is no {part} beneath it")
    return found


def _unfit(name: str, tensors: Mapping[str, TensorInfo], told: str) -> CheckpointError:
    info = tensors[name]
    return CheckpointError(f"{info.file}: tensor {name!r} is {info.dtype} {list(info.shape)}: {told}")
