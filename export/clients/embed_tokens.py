"""The half of the embedding graph that looks tokens up, as a graph without weights of its own.

Enters: the written embedding merge (`input_ids`, `image_features` → `inputs_embeds`). Leaves: `input_ids` →
`inputs_embeds` beside it, over the same data file: Transformers.js puts image features into their places itself. Its
build of ONNX Runtime for browsers has no `GatherBlockQuantized` on the CPU, so that rows in 8 bits are looked up by
ONNX's own operators, with the same result.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pumice.manifest.tensors import IMAGE_FEATURES, INPUT_IDS, INPUTS_EMBEDS

_BITS = 8


def write_embed_tokens(embedding: Path, embed_tokens: Path) -> None:
    """Write the graph `embed_tokens`, of the graph `embedding`."""
    model = ir.load(embedding)
    graph = model.graph
    merged = graph.outputs[0]
    where = merged.producer()
    assert where is not None
    assert where.op_type == "Where", where.op_type
    looked_up = next(value for value in where.inputs[1:] if value is not None and not _sees_images(value))
    looked_up.shape, looked_up.type = merged.shape, merged.type
    graph.outputs[0] = looked_up
    merged.name, looked_up.name = f"{INPUTS_EMBEDS}/merged", INPUTS_EMBEDS
    RemoveUnusedNodesPass()(model)
    for value in [value for value in graph.inputs if value.name != INPUT_IDS]:
        graph.inputs.remove(value)
    for node in list(graph):
        if node.op_type == "GatherBlockQuantized" and node.attributes["bits"].as_int() == _BITS:
            _look_up_plainly(graph, node)
    ir.save(model, embed_tokens)


def _look_up_plainly(graph: ir.Graph, node: ir.Node) -> None:
    """(bytes - 128) · scale, block by block, of the rows that are looked up.

    bytes   [B, T, blocks · size] ─▶ [B, T, blocks, size] ─▶ · scales [B, T, blocks, 1] ─▶ [B, T, blocks · size]
    """
    table, ids, scales, *zero_points = node.inputs
    assert table is not None
    assert scales is not None
    assert scales.dtype is not None
    if zero_points:
        return
    path = f"{(node.name or '').removesuffix('BlockQuantized')}Plain"
    size = node.attributes["block_size"].as_int()

    def constant(name: str, value: np.ndarray) -> ir.Value:
        tensor = ir.tensor(value, name=f"{path}_{name}")
        made = ir.Value(
            name=tensor.name,
            shape=ir.Shape(value.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        graph.register_initializer(made)
        return made

    nodes: list[ir.Node] = []

    def computed(kind: str, name: str, *inputs: ir.Value | None, **attributes: int) -> ir.Value:
        nodes.append(ir.node(kind, list(inputs), attributes, name=f"{path}{name}"))
        nodes[-1].outputs[0].name = f"{path}{name}_output_0"
        return nodes[-1].outputs[0]

    integers = computed("Cast", "Cast", computed("Gather", "Bytes", table, ids), to=scales.dtype.value)
    middle = constant("middle", np.array(128, scales.dtype.numpy()))
    centred = computed("Sub", "Sub", integers, middle)
    blocks = computed("Reshape", "Blocks", centred, constant("blocks", np.array([0, 0, -1, size])))
    axis = constant("axis", np.array([-1]))
    factors = computed("Unsqueeze", "Factors", computed("Gather", "Scales", scales, ids), axis)
    product = computed("Mul", "Mul", blocks, factors)
    rows = computed("Reshape", "Rows", product, constant("rows", np.array([0, 0, -1])))
    graph.insert_before(node, nodes)
    old = node.outputs[0]
    rows.shape, rows.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, rows, replace_graph_outputs=True)
    rows.name, old.name = old.name, f"{old.name}/quantized"
    graph.remove(node, safe=True)


def _sees_images(value: ir.Value) -> bool:
    """Whether image features go into a value."""
    if value.name == IMAGE_FEATURES:
        return True
    node = value.producer()
    return node is not None and any(given is not None and _sees_images(given) for given in node.inputs)
