"""The graph pass that puts quantised matrices to use: products become MatMulNBits, the table's GatherBlockQuantized.

Enters: a graph whose parameters are inputs (`pumice.export.trace.tracing`), and how each matrix is to be stored.
Leaves: the same graph with other parameters: a matrix W becomes `W.int4` or `W.int8`, `W.scale`, and `W.zero_point`
unless its blocks are symmetric. Rows are outputs, whatever the float parameter's layout.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pumice.export.recipes.recipe import Storage
from pumice.export.weights.quantization import quantized_names


def quantize_products(model: ir.Model, storages: Mapping[str, Storage]) -> None:
    """Replace every product with a parameter of `storages` that is stored in blocks.

    1. `MatMul(x, W)` with W [in, out];
    2. `FusedMatMul(x, W, transB=1)` with W [out, in], which is the head.
    """
    parameters = {value.name: value for value in model.graph.inputs}
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type in ("MatMul", "FusedMatMul") else None
        storage = storages.get(weight.name or "") if weight is not None else None
        if (
            weight is None
            or storage is None
            or storage.by_column
            or parameters.get(weight.name) is not weight
        ):
            continue
        shape = _static(weight)
        inner, outer = shape if node.op_type == "MatMul" else reversed(shape)
        _replace_product(model.graph, node, weight, inner, outer, storage)


def quantize_table(model: ir.Model, storages: Mapping[str, Storage]) -> None:
    """Replace `Gather(table, ids)` on a parameter table [V, D] of `storages`.

    Where blocks do not divide D, rows are as wide as their blocks, as MatMulNBits has them, and are cut to D again.
    """
    for node in list(model.graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        storage = storages.get(table.name or "") if table is not None else None
        if table is not None and storage is not None and table in model.graph.inputs:
            _replace_gather(model.graph, node, table, storage)


def _replace_product(
    graph: ir.Graph, node: ir.Node, weight: ir.Value, inner: int, outer: int, storage: Storage
) -> None:
    blocks = -(-inner // storage.block_size)
    packed = (outer, blocks, storage.block_size * _bits(storage) // 8)
    attributes = {"K": inner, "N": outer, "bits": _bits(storage), "block_size": storage.block_size}
    if storage.accuracy_level:
        attributes["accuracy_level"] = storage.accuracy_level
    name = (node.name or "").replace("/MatMul", "/MatMulNBits").replace("/FusedMatMul", "/MatMulNBits")
    parameters = _parameters(graph, weight, storage, packed, (outer, blocks))
    product = ir.node(
        "MatMulNBits", [node.inputs[0], *parameters], attributes, domain="com.microsoft", name=name
    )
    _put_instead(graph, node, [product], weight)


def _replace_gather(graph: ir.Graph, node: ir.Node, table: ir.Value, storage: Storage) -> None:
    indices = node.inputs[1]
    assert indices is not None
    _put_instead(graph, node, gathered_rows(graph, f"{node.name}", table, indices, storage), table)


def gathered_rows(
    graph: ir.Graph, path: str, table: ir.Value, indices: ir.Value, storage: Storage
) -> list[ir.Node]:
    """Nodes that look up rows of a table [V, D], to be stored in blocks: indices [...] → [..., D].

    The table's parameters become graph inputs; the table itself need not be one.
    """
    rows, columns = _static(table)
    blocks = -(-columns // storage.block_size)
    padded = blocks * storage.block_size
    data, *others = _parameters(graph, table, storage, (rows, padded * _bits(storage) // 8), (rows, blocks))
    attributes = {
        "gather_axis": 0,
        "quantize_axis": 1,
        "block_size": storage.block_size,
        "bits": _bits(storage),
    }
    inputs = [data, indices, *others]
    new = [
        ir.node(
            "GatherBlockQuantized", inputs, attributes, domain="com.microsoft", name=f"{path}BlockQuantized"
        )
    ]
    if padded != columns:
        bounds = [
            _constant(graph, f"{path}_{key}", at) for key, at in (("from", 0), ("to", columns), ("axis", -1))
        ]
        new.append(ir.node("Slice", [new[0].outputs[0], *bounds], name=f"{path}Slice"))
    return new


def _parameters(
    graph: ir.Graph, of: ir.Value, storage: Storage, packed: tuple[int, ...], scales: tuple[int, int]
) -> list[ir.Value]:
    """New graph inputs in the order of `quantized_names`; scales have the matrix's own float type."""
    assert of.name is not None
    assert of.dtype is not None
    zero_points = (scales[0], -(-scales[1] * _bits(storage) // 8))
    shapes = (packed, scales, zero_points)
    dtypes = (ir.DataType.UINT8, of.dtype, ir.DataType.UINT8)
    values = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        for name, shape, dtype in zip(quantized_names(of.name, storage), shapes, dtypes, strict=False)
    ]
    graph.inputs.extend(values)
    return values


def _constant(graph: ir.Graph, name: str, number: int) -> ir.Value:
    tensor = ir.tensor(np.array([number], dtype=np.int64), name=name)
    value = ir.Value(name=name, shape=ir.Shape((1,)), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _put_instead(graph: ir.Graph, old: ir.Node, new: list[ir.Node], parameter: ir.Value) -> None:
    last = new[-1].outputs
    last[0].name = old.outputs[0].name
    ir.convenience.replace_nodes_and_values(graph, old, [old], new, old.outputs, last)
    graph.inputs.remove(parameter)


def _bits(storage: Storage) -> int:
    assert storage.bits is not None
    return storage.bits


def _static(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return value.shape.numpy()
