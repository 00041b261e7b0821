"""A head of 8 bits in two halves: all of the upper one is multiplied, and the lower one where it decides.

Every weight w of the head [V, D] is stored as 4 bits q and 4 bits r, with one scale s a block:

    w ≈ s·(q − 8 + (r − 8) / 16)        q is what MatMulNBits multiplies, r the residual

    x [..., D] ─MatMulNBits by q─▶ logits [..., V] ─TopK─▶ values, ids [..., C] ─rows of r─▶ [..., C, D] · x / 16
                                     └─────────ScatterElements◀───────── values + ─┘

A head is a fifth to a third of what a small model reads for a token. So half of it is read, and of the other half a few
rows. A tied embedding table is the same two halves, looked up and added.

Enters: graphs with their parameters as graph inputs, whose head or table is stored in 4 bits. Leaves: the same graphs
with a parameter `….residual.int4` more.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from pumice.errors import CheckpointError
from pumice.export.passes.constants import add_constant
from pumice.export.recipes.recipe import Storage
from pumice.export.recipes.storage import RESIDUAL
from pumice.export.weights.parameters import Parameter, Piece, check_range
from pumice.export.weights.quantization import blocks_of, inverse, packed, quantized_names
from pumice.models.weights import Read, Weight, cut

CANDIDATES = 256
"""Logits of a row that are computed in full. What 4 bits put behind so many others is not likely, by 8 bits either."""
STEPS = 16
"""Steps of the lower half in one of the upper."""


def residual_names(name: str, residual: str, storage: Storage) -> tuple[str, ...]:
    """The initializers of both halves: integers, scales, residuals."""
    return (*quantized_names(name, storage), f"{residual}.{storage.weights}")


def residual_parameter(
    weight: Weight, read: Read, storage: Storage, dtype: torch.dtype, *, name: str = "lm_head.weight"
) -> Parameter:
    """The head's parameter in both halves, with scales of `dtype`."""
    pieces = tuple(
        Piece(nbytes=8 * count, make=partial(_halves_of, source, start, stop, read, storage, dtype))
        for source, start, stop, count in cut(weight)
    )
    return Parameter(names=residual_names(name, RESIDUAL, storage), pieces=pieces)


def _halves_of(
    source: str, start: int, stop: int, read: Read, storage: Storage, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    rows = read(source, start, stop)
    check_range(rows, source, dtype)
    upper, scales, lower = halves(rows, storage.block_size, dtype)
    if not scales.isfinite().all():
        raise CheckpointError(f"tensor {source} has weights that are NaN or infinite: download it again")
    return upper, scales, lower


def halves(
    rows: Tensor, block_size: int, scale_type: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [R, D] as packed q, scales, and packed r: uint8 [R, blocks, block size / 2], [R, blocks], as q.

    The scale is the smallest for which q + r reaches both ends of a block, −8.5 … 7.4375 steps of q; its sign is that
    for which it is smaller.
    """
    groups = blocks_of(rows, block_size)
    largest, smallest = groups.amax(2), groups.amin(2)
    upright = torch.maximum(largest / 7.4375, -smallest / 8.5)
    turned = torch.maximum(-smallest / 7.4375, largest / 8.5)
    scales = torch.where(upright <= turned, upright, -turned).to(scale_type)
    steps = groups.mul_(STEPS * inverse(scales)[:, :, None]).round_().clamp_(-136, 119)
    q = (steps + STEPS / 2).div_(STEPS).floor_()
    r = steps.sub_(q * STEPS)
    return packed((q + 8).to(torch.uint8), 4), scales, packed((r + 8).to(torch.uint8), 4)


def refine_head(model: ir.Model, vocab_size: int) -> None:
    """Insert the pass behind the head, which is a product in 4 bits already."""
    graph = model.graph
    head = next(node for node in graph if node.name == "/lm_head/MatMulNBits")
    x, table, scales = head.inputs[:3]
    logits = head.outputs[0]
    assert x is not None
    assert table is not None
    readers = list(logits.uses())
    is_output = logits.is_graph_output()
    made = _Nodes(graph, "/lm_head/residual")
    count = min(CANDIDATES, vocab_size)
    values, ids = made.add("TopK", logits, made.integers("candidates", count), outputs=2, axis=-1, sorted=0)
    residual = _residual_input(graph, table, f"{RESIDUAL}.int4")
    rows = made.gather(residual, ids, scales, _attribute(head, "block_size"))
    rows = made.cut(rows, _attribute(head, "K"), residual)
    column = made.add("Unsqueeze", x, made.integers("column_axis", -1))[0]
    products = made.add("MatMul", rows, column)[0]
    scores = made.add("Squeeze", products, made.integers("score_axis", -1))[0]
    finer = made.add("Add", values, made.add("Mul", scores, made.fraction(logits))[0])[0]
    refined = made.add("ScatterElements", logits, ids, finer, axis=-1)[0]
    graph.insert_after(head, made.nodes)
    for node, index in readers:
        node.replace_input_with(index, refined)
    if is_output:
        graph.outputs[list(graph.outputs).index(logits)] = refined
        refined.name, logits.name = logits.name, f"{head.name}_output_0"
        refined.shape, refined.type = logits.shape, logits.type


def refine_table(model: ir.Model, name: str = "weight") -> None:
    """Add the lower half to what is looked up in a table of 4 bits."""
    graph = model.graph
    lookup = next(node for node in graph if node.op_type == "GatherBlockQuantized")
    table, ids, scales = lookup.inputs[:3]
    upper = lookup.outputs[0]
    assert table is not None
    readers = list(upper.uses())
    made = _Nodes(graph, "/residual")
    residual = _residual_input(graph, table, f"{name}.residual.int4")
    lower = made.gather(residual, ids, scales, _attribute(lookup, "block_size"))
    both = made.add("Add", upper, made.add("Mul", lower, made.fraction(upper))[0])[0]
    graph.insert_after(lookup, made.nodes)
    for node, index in readers:
        node.replace_input_with(index, both)


def _residual_input(graph: ir.Graph, upper: ir.Value, name: str) -> ir.Value:
    """The lower half as a graph input: a table [V, bytes], whatever shape the upper half has."""
    assert upper.shape is not None
    shape = upper.shape.numpy()
    value = ir.Value(
        name=name, shape=ir.Shape((shape[0], int(np.prod(shape[1:])))), type=ir.TensorType(ir.DataType.UINT8)
    )
    graph.inputs.append(value)
    return value


def _attribute(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int()


class _Nodes:
    """New nodes of a graph under one path, in their order, and their constants."""

    def __init__(self, graph: ir.Graph, path: str) -> None:
        self._graph, self._path = graph, path
        self.nodes: list[ir.Node] = []

    def add(
        self, operator: str, *inputs: ir.Value | None, outputs: int = 1, domain: str = "", **attributes: int
    ) -> tuple[ir.Value, ...]:
        """A node's outputs."""
        path = f"{self._path}/{operator}"
        node = ir.node(operator, inputs, attributes, domain=domain, num_outputs=outputs, name=path)
        for number, value in enumerate(node.outputs):
            value.name = f"{path}_output_{number}"
        self.nodes.append(node)
        return tuple(node.outputs)

    def gather(
        self, table: ir.Value, ids: ir.Value | None, scales: ir.Value | None, block_size: int
    ) -> ir.Value:
        """Rows of a table in 4 bits, as wide as their blocks."""
        return self.add(
            "GatherBlockQuantized", table, ids, scales,
            domain="com.microsoft", gather_axis=0, quantize_axis=1, block_size=block_size, bits=4,
        )[0]  # fmt: skip

    def cut(self, rows: ir.Value, width: int, table: ir.Value) -> ir.Value:
        """Rows without what pads their last block."""
        assert table.shape is not None
        if table.shape.numpy()[1] * 2 == width:
            return rows
        ends = [self.integers(key, at) for key, at in (("from", 0), ("to", width), ("axis", -1))]
        return self.add("Slice", rows, *ends)[0]

    def integers(self, name: str, number: int) -> ir.Value:
        """A constant int64 [1]."""
        return self._constant(name, np.array([number], dtype=np.int64))

    def fraction(self, like: ir.Value) -> ir.Value:
        """One step of the lower half in steps of the upper, in another value's float type."""
        dtype = (like.dtype or ir.DataType.FLOAT).numpy()
        return self._constant("step", np.array(1 / STEPS, dtype=dtype))

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        return add_constant(self._graph, f"{self._path}/{name}", array)
