"""Block-wise weight quantisation: the arithmetic, and the graph pass that puts it to use.

Every row of a [rows, columns] matrix is cut into blocks of `block_size` columns; a block stores small integers q and
one float32 scale s, and stands for s·(q − 8). The bytes are those of ONNX Runtime's `MatMulNBits` and
`GatherBlockQuantized` (both described in its docs/ContribOperators.md), so a tied table serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pumice.errors import UsageError

ZERO_POINT = 8
"""Of 4-bit blocks without stored zero points."""


@dataclass(frozen=True, kw_only=True)
class Int4:
    """How matrices are quantised: symmetric 4-bit blocks of `block_size` columns.

    `accuracy_level` is MatMulNBits' choice of arithmetic: 0 and 1 float32, 4 int8 activations with one scale per block.
    """

    block_size: int = 32
    accuracy_level: int = 4

    def __post_init__(self) -> None:
        if self.block_size not in (16, 32, 64, 128, 256):
            raise UsageError(f"block size is {self.block_size}, expected 16, 32, 64, 128 or 256")


def quantize_rows(
    matrix: NDArray[np.float32], block_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantise float32 [rows, columns] → packed uint8 [rows, blocks, block_size/2] and scales float32 [rows, blocks].

    The value of largest magnitude in a block becomes −8·s exactly (ONNX Runtime's own rule), so that a block uses all
    sixteen steps on its heavier side. Low nibbles hold even columns. The last block is padded with zeros.
    """
    rows, columns = matrix.shape
    blocks = -(-columns // block_size)
    padded = np.pad(matrix, ((0, 0), (0, blocks * block_size - columns)))
    groups = padded.reshape(rows, blocks, block_size)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[:, :, None], axis=2)
    scales = largest / np.float32(-ZERO_POINT)
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
    q = np.clip(np.rint(groups * inverse) + ZERO_POINT, 0, 15).astype(np.uint8)
    return q[:, :, 0::2] | (q[:, :, 1::2] << 4), scales[:, :, 0]


def dequantize_rows(
    packed: NDArray[np.uint8], scales: NDArray[np.float32], columns: int
) -> NDArray[np.float32]:
    """What `quantize_rows` stands for: float32 [rows, columns]."""
    q = np.stack((packed & 15, packed >> 4), axis=-1).reshape(*packed.shape[:2], -1)
    values = (q.astype(np.float32) - ZERO_POINT) * scales[:, :, None]
    return values.reshape(len(packed), -1)[:, :columns]


def quantized_names(name: str) -> tuple[str, str]:
    """The initializers that a quantised parameter becomes: its packed integers and its scales."""
    return f"{name}.int4", f"{name}.scale"


def quantize_matmuls(model: ir.Model, scheme: Int4) -> list[str]:
    """Replace every product with a weight matrix by MatMulNBits; the quantised parameters' names are returned.

    1. `MatMul(x, W)` with a parameter W [in, out];
    2. `FusedMatMul(x, W, transB=1)` with a parameter W [out, in], which is the head.
    """
    quantized = []
    parameters = {value.name: value for value in model.graph.inputs}
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type in ("MatMul", "FusedMatMul") else None
        if weight is None or weight.name is None or parameters.get(weight.name) is not weight:
            continue
        shape = _static(weight)
        inner, outer = shape if node.op_type == "MatMul" else reversed(shape)
        _replace_matmul(model.graph, node, weight, inner, outer, scheme)
        quantized.append(weight.name)
    return quantized


def quantize_table(model: ir.Model, scheme: Int4) -> list[str]:
    """Replace `Gather(table, ids)` on a parameter table [V, D] by GatherBlockQuantized where blocks divide D."""
    (node,) = (n for n in model.graph if n.op_type == "Gather" and n.inputs[0] in model.graph.inputs)
    table = node.inputs[0]
    assert table is not None
    assert table.name is not None
    rows, columns = _static(table)
    if columns % scheme.block_size:
        return []
    packed = _parameter(model.graph, table, 0, ir.DataType.UINT8, (rows, columns // 2))
    scales = _parameter(model.graph, table, 1, ir.DataType.FLOAT, (rows, columns // scheme.block_size))
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": scheme.block_size, "bits": 4}
    gather = ir.node(
        "GatherBlockQuantized",
        [packed, node.inputs[1], scales],
        attributes,
        domain="com.microsoft",
        name=node.name,
    )
    _put_instead(model.graph, node, gather, table)
    return [table.name]


def _replace_matmul(
    graph: ir.Graph, node: ir.Node, weight: ir.Value, inner: int, outer: int, scheme: Int4
) -> None:
    blocks = -(-inner // scheme.block_size)
    packed = _parameter(graph, weight, 0, ir.DataType.UINT8, (outer, blocks, scheme.block_size // 2))
    scales = _parameter(graph, weight, 1, ir.DataType.FLOAT, (outer, blocks))
    attributes = {
        "K": inner,
        "N": outer,
        "bits": 4,
        "block_size": scheme.block_size,
        "accuracy_level": scheme.accuracy_level,
    }
    name = (node.name or "").replace("/MatMul", "/MatMulNBits").replace("/FusedMatMul", "/MatMulNBits")
    inputs = [node.inputs[0], packed, scales]
    _put_instead(
        graph, node, ir.node("MatMulNBits", inputs, attributes, domain="com.microsoft", name=name), weight
    )


def _parameter(
    graph: ir.Graph, of: ir.Value, index: int, dtype: ir.DataType, shape: tuple[int, ...]
) -> ir.Value:
    assert of.name is not None
    value = ir.Value(name=quantized_names(of.name)[index], shape=ir.Shape(shape), type=ir.TensorType(dtype))
    graph.inputs.append(value)
    return value


def _put_instead(graph: ir.Graph, old: ir.Node, new: ir.Node, parameter: ir.Value) -> None:
    new.outputs[0].name = old.outputs[0].name
    ir.convenience.replace_nodes_and_values(graph, old, [old], [new], old.outputs, new.outputs)
    graph.inputs.remove(parameter)


def _static(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return value.shape.numpy()
