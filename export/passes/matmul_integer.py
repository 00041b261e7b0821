"""The graph pass for integer products: int8 weights with one scale a column, activations rounded as they come.

Enters: a graph whose parameters are inputs (`pumice.export.trace.tracing`), and how each matrix is to be stored.
Leaves: the same graph, where a matrix W [in, out] of `activations = "int8"` has become `W.int8` and `W.scale`, and

    y = x·W     q = round(x / s) + 128, uint8, with s = max|x| / 127 of each row of x        (the last axis)
                y = s · ((q − 128)·W.int8) · W.scale, of which the middle is one integer product

Each row of x has a scale of its own, so that a token's result does not depend on the others it is read with; ONNX's
DynamicQuantizeLinear would take one for all of them. Products of the same x share its rounding. Where x is itself a
product times something, as between the matrices of a gated MLP, that product's row scale cancels in q: it is left out
there, and multiplies s, one number a row.

Weights have a zero point, 0, that ONNX would take for granted: making them unsigned for processors without VNNI, ONNX
Runtime before 1.30 writes to that input without looking whether it is there, and aborts the process. Every version
refuses to do so twice with one zero point, so each matrix has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pumice.export.passes.constants import Constants
from pumice.export.recipes.recipe import Storage

_TINY = 1e-30
"""A row of zeros needs a scale too."""


def make_integer_products(model: ir.Model, storages: Mapping[str, Storage]) -> None:
    """Replace every `MatMul(x, W)` with a parameter of `storages` that is `by_column`."""
    graph = model.graph
    parameters = {value.name: value for value in graph.inputs}

    def is_one(node: ir.Node) -> bool:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        storage = storages.get(weight.name or "") if weight is not None else None
        return (
            weight is not None
            and storage is not None
            and storage.by_column
            and node.inputs[0] is not None
            and parameters.get(weight.name) is weight
        )

    pass_ = _Pass(graph, {node for node in graph if is_one(node)})
    for node in list(graph):
        if node in pass_.products:
            pass_.replace(node)


@dataclass(frozen=True, kw_only=True)
class _Rounded:
    """Activations as integers of their own shape, and the scale of each row, [..., 1]."""

    q: ir.Value
    scale: ir.Value


@dataclass(frozen=True, kw_only=True)
class _Scaled:
    """An integer product before `node` multiplies it by the scale of each row."""

    node: ir.Node
    product: ir.Value
    scale: ir.Value


class _Pass:
    """The pass over one graph: what it made already, by what it was made of."""

    def __init__(self, graph: ir.Graph, products: set[ir.Node]) -> None:
        self.products = products
        self._graph, self._constants = graph, Constants(graph)
        self._rounded: dict[ir.Value, _Rounded] = {}
        self._scaled: dict[ir.Value, _Scaled] = {}
        self._shared: dict[object, ir.Value] = {}

    def replace(self, node: ir.Node) -> None:
        """Make `MatMul(x, W)` an integer product, and round x unless it is rounded already."""
        x, weight = node.inputs
        assert x is not None
        assert weight is not None
        if x not in self._rounded:
            nodes = _Nodes(f"{(node.name or '/').rpartition('/')[0]}/round")
            self._rounded[x] = self._round(nodes, x, weight)
            self._graph.insert_before(node, nodes.made)
        self._multiply(node, weight, self._rounded[x])

    def _round(self, nodes: _Nodes, x: ir.Value, weight: ir.Value) -> _Rounded:
        assert weight.shape is not None
        width, constants, leading = weight.shape.numpy()[0], self._constants, _leading(x)
        unscaled = self._unscaled(x)
        last = constants.get("last_axis", np.array([-1], np.int64))
        largest, smallest = (nodes.add(f"Reduce{end}", x, last, keepdims=1) for end in ("Max", "Min"))
        tiniest = constants.get("tiny", np.array(127 * _TINY, np.float32))
        magnitude = nodes.add("Max", largest, nodes.add("Neg", smallest), tiniest)
        scale = nodes.add("Mul", magnitude, constants.get("one_step", np.array(1 / 127, np.float32)))
        rows = nodes.add("Reshape", x, constants.get(f"rows_of_{width}", np.array([-1, width], np.int64)))
        scales = nodes.add("Reshape", scale, last)
        shape = self._share((leading, width), lambda: nodes.add("Shape", x))
        q = nodes.add("QuantizeLinear", rows, scales, self._zeros(nodes, scales, leading), axis=0)
        q = nodes.add("Reshape", q, shape)
        return _Rounded(q=q, scale=scale if unscaled is None else nodes.add("Mul", scale, unscaled))

    def _zeros(self, nodes: _Nodes, scales: ir.Value, leading: object) -> ir.Value:
        """As many zero points as there are scales along the axis: so ONNX wants it."""
        zero = self._constants.get("zero_point", np.array(128, np.uint8))
        return self._share(leading, lambda: nodes.add("Expand", zero, nodes.add("Shape", scales)))

    def _share(self, key: object, make: Callable[[], ir.Value]) -> ir.Value:
        """What depends on a shape alone, made once for each; where a shape is unknown there is None in its `key`."""
        if key is None or (isinstance(key, tuple) and None in key):
            return make()
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def _unscaled(self, x: ir.Value) -> ir.Value | None:
        """Leave the row scale out of x = other · (s · product) where nothing else than products reads x; the scale."""
        node = x.producer()
        if node is None or node.op_type != "Mul" or x.is_graph_output():
            return None
        if not self.products.issuperset(use.node for use in x.uses()):
            return None
        for index, value in enumerate(node.inputs):
            scaled = self._scaled.get(value) if value is not None else None
            alone = value is not None and len(value.uses()) == 1 and not value.is_graph_output()
            if scaled is not None and alone:
                node.replace_input_with(index, scaled.product)
                self._graph.remove(scaled.node, safe=True)
                return scaled.scale
        return None

    def _multiply(self, node: ir.Node, weight: ir.Value, x: _Rounded) -> None:
        assert weight.shape is not None
        inner, outer = weight.shape.numpy()
        parts = [
            ir.Value(
                name=f"{weight.name}.int8",
                shape=ir.Shape((inner, outer)),
                type=ir.TensorType(ir.DataType.INT8),
            ),
            ir.Value(
                name=f"{weight.name}.scale", shape=ir.Shape((outer,)), type=ir.TensorType(ir.DataType.FLOAT)
            ),
        ]
        self._graph.inputs.extend(parts)
        name, constants = node.name or "", self._constants
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
            self._graph, node, [node], [product, scaled], node.outputs, scaled.outputs
        )
        self._scaled[scaled.outputs[0]] = _Scaled(node=scaled, product=product.outputs[0], scale=x.scale)
        self._graph.inputs.remove(weight)


class _Nodes:
    """New nodes below one path, in order."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.made: list[ir.Node] = []

    def add(self, operator: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        """A node's only output."""
        name = _free_name(self.made, f"{self._path}/{operator}")
        node = ir.node(operator, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}_output_0"
        self.made.append(node)
        return node.outputs[0]


def _leading(x: ir.Value) -> tuple[object, ...] | None:
    """All dimensions of x but the last, where each is known by number or by name."""
    if x.shape is None:
        return None
    found = tuple(dim if isinstance(dim, int) else dim.value for dim in x.shape[:-1])
    return None if None in found else found


def _free_name(nodes: list[ir.Node], name: str) -> str:
    taken = {node.name for node in nodes}
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
