"""The graph pass that computes the best logits a second time, from a nearer copy of the head.

Enters: a decoder whose head is a product in few bits, with its parameters as graph inputs, and how the nearer copy is
to be stored. Leaves: the same graph, where the `CANDIDATES` largest logits of every row are replaced:

    x [..., D] ─MatMulNBits─▶ logits [..., V] ─TopK─▶ ids [..., C] ─rows of the nearer copy─▶ [..., C, D] · x
                                     └──────────────────────ScatterElements◀─────────────────────┘

A head is a fifth to a third of what a small model reads for a token. So all of it is read in 4 bits, and of the nearer
copy a few rows; in a tied model that copy is the embedding table, which is there anyway.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pumice.export.quantized_operators import gathered_rows
from pumice.export.recipe import Storage

REFINED = "lm_head.refined"
"""The nearer copy's name among the decoder's parameters."""
CANDIDATES = 64
"""Logits of a row that are computed again. What 4 bits put behind so many others is not likely, by 8 bits either."""


def refine_head(model: ir.Model, shape: tuple[int, int], storage: Storage) -> None:
    """Insert the pass behind the head, whose table is [V, D] = `shape`."""
    graph = model.graph
    head = next(node for node in graph if node.name == "/lm_head/MatMulNBits")
    x, logits = head.inputs[0], head.outputs[0]
    assert x is not None
    readers = list(logits.uses())
    is_output = logits.is_graph_output()
    nodes: list[ir.Node] = []

    def add(operator: str, *inputs: ir.Value, outputs: int = 1, **attributes: int) -> ir.Value:
        path = f"/lm_head/refined/{operator}"
        node = ir.node(operator, inputs, attributes, num_outputs=outputs, name=path)
        for number, value in enumerate(node.outputs):
            value.name = f"{path}_output_{number}"
        nodes.append(node)
        return node.outputs[-1]

    count = min(CANDIDATES, shape[0])
    ids = add("TopK", logits, _integers(graph, "candidates", count), outputs=2, axis=-1, sorted=0)
    table = ir.Value(name=REFINED, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    lookup = gathered_rows(graph, "/lm_head/refined/Gather", table, ids, storage)
    for node in lookup:
        node.outputs[0].name = f"{node.name}_output_0"
    nodes += lookup
    column = add("Unsqueeze", x, _integers(graph, "candidates_axis", -1))
    products = add("MatMul", lookup[-1].outputs[0], column)
    scores = add("Squeeze", products, graph.initializers["/lm_head/refined/candidates_axis"])
    refined = add("ScatterElements", logits, ids, scores, axis=-1)
    graph.insert_after(head, nodes)
    for node, index in readers:
        node.replace_input_with(index, refined)
    if is_output:
        graph.outputs[list(graph.outputs).index(logits)] = refined
        refined.name, logits.name = logits.name, f"{head.name}_output_0"
        refined.shape, refined.type = logits.shape, logits.type


def _integers(graph: ir.Graph, name: str, *numbers: int) -> ir.Value:
    tensor = ir.tensor(np.array(numbers, dtype=np.int64), name=f"/lm_head/refined/{name}")
    value = ir.Value(
        name=tensor.name,
        shape=ir.Shape((len(numbers),)),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value
