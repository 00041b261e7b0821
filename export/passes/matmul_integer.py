"""The graph pass for integer products: int8 weights with one scale a column, activations rounded as they come.

Enters: a graph whose parameters are inputs (`pumice.export.trace.tracing`), and how each matrix is to be stored.
Leaves: the same graph, where a matrix W [in, out] of `activations = "int8"` has become `W.int8` and `W.scale`, and

    y = x·W     q = round(x / s) + 128, uint8, with s = max|x| / 127 of each row of x        (the last axis)
                y = s · ((q − 128)·W.int8) · W.scale, of which the middle is one integer product

Each row of x has a scale of its own, so that a token's result does not depend on the others it is read with; ONNX's
DynamicQuantizeLinear would take one for all of them. Products of the same x share its rounding.

Weights have a zero point, 0, that ONNX would take for granted: making them unsigned for processors without VNNI, ONNX
Runtime before 1.30 writes to that input without looking whether it is there, and aborts the process. Every version
refuses to do so twice with one zero point, so each matrix has its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pumice.export.recipes.recipe import Storage

_TINY = 1e-30
"""A row of zeros needs a scale too."""


def make_integer_products(model: ir.Model, storages: Mapping[str, Storage]) -> None:
    """Replace every `MatMul(x, W)` with a parameter of `storages` that is `by_column`."""
    graph = model.graph
    parameters = {value.name: value for value in graph.inputs}
    rounded: dict[ir.Value, _Rounded] = {}
    constants = _Constants(graph)
    for node in list(graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        storage = storages.get(weight.name or "") if weight is not None else None
        x = node.inputs[0] if node.inputs else None
        if weight is None or storage is None or x is None or not storage.by_column:
            continue
        if parameters.get(weight.name) is not weight:
            continue
        if x not in rounded:
            rounded[x] = _round(graph, node, x, weight, constants)
        _multiply(graph, node, weight, rounded[x], constants)


class _Rounded:
    """Activations as integers of their own shape, and the scale of each row, [..., 1]."""

    def __init__(self, q: ir.Value, scale: ir.Value) -> None:
        self.q, self.scale = q, scale


class _Constants:
    """Small initializers of a graph, each made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._values: dict[str, ir.Value] = {}

    def get(self, name: str, array: np.ndarray) -> ir.Value:
        if name not in self._values:
            tensor = ir.tensor(array, name=name)
            value = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self._graph.register_initializer(value)
            self._values[name] = value
        return self._values[name]


def _round(
    graph: ir.Graph, before: ir.Node, x: ir.Value, weight: ir.Value, constants: _Constants
) -> _Rounded:
    assert weight.shape is not None
    width = weight.shape.numpy()[0]
    path = (before.name or "/").rpartition("/")[0]
    nodes: list[ir.Node] = []

    def add(operator: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(operator, inputs, attributes, name=_free_name(nodes, f"{path}/round/{operator}"))
        node.outputs[0].name = f"{node.name}_output_0"
        nodes.append(node)
        return node.outputs[0]

    last = constants.get("last_axis", np.array([-1], np.int64))
    largest, smallest = add("ReduceMax", x, last, keepdims=1), add("ReduceMin", x, last, keepdims=1)
    magnitude = add("Max", largest, add("Neg", smallest))
    step = add("Mul", magnitude, constants.get("one_step", np.array(1 / 127, np.float32)))
    scale = add("Max", step, constants.get("tiny", np.array(_TINY, np.float32)))
    rows = add("Reshape", x, constants.get(f"rows_of_{width}", np.array([-1, width], np.int64)))
    scales = add("Reshape", scale, last)
    zero = constants.get("zero_point", np.array(128, np.uint8))
    # With scales along an axis, ONNX wants as many zero points.
    zeros = add("Expand", zero, add("Shape", scales))
    q = add("QuantizeLinear", rows, scales, zeros, axis=0)
    q = add("Reshape", q, add("Shape", x))
    graph.insert_before(before, nodes)
    return _Rounded(q, scale)


def _multiply(graph: ir.Graph, node: ir.Node, weight: ir.Value, x: _Rounded, constants: _Constants) -> None:
    assert weight.shape is not None
    inner, outer = weight.shape.numpy()
    parts = [
        ir.Value(
            name=f"{weight.name}.int8", shape=ir.Shape((inner, outer)), type=ir.TensorType(ir.DataType.INT8)
        ),
        ir.Value(
            name=f"{weight.name}.scale", shape=ir.Shape((outer,)), type=ir.TensorType(ir.DataType.FLOAT)
        ),
    ]
    graph.inputs.extend(parts)
    name = node.name or ""
    product = ir.node(
        "MatMulIntegerToFloat",
        [
            x.q,
            parts[0],
            constants.get("one", np.array(1, np.float32)),
            parts[1],
            constants.get("zero_point", np.array(128, np.uint8)),
            constants.get(f"{weight.name}.zero_point", np.array(0, np.int8)),
        ],
        domain="com.microsoft",
        name=name.replace("/MatMul", "/MatMulIntegerToFloat"),
    )
    product.outputs[0].name = f"{product.name}_output_0"
    scaled = ir.node("Mul", [product.outputs[0], x.scale], name=name.replace("/MatMul", "/Mul"))
    scaled.outputs[0].name = node.outputs[0].name
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [product, scaled], node.outputs, scaled.outputs
    )
    graph.inputs.remove(weight)


def _free_name(nodes: list[ir.Node], name: str) -> str:
    taken = {node.name for node in nodes}
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
