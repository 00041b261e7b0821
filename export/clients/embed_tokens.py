"""The half of the embedding graph that looks tokens up, as a graph without weights of its own.

Enters: the written embedding merge (`input_ids`, `image_features` → `inputs_embeds`). Leaves: `input_ids` →
`inputs_embeds` beside it, over the same data file: Transformers.js puts image features into their places itself.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pumice.manifest.tensors import IMAGE_FEATURES, INPUT_IDS, INPUTS_EMBEDS


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
    ir.save(model, embed_tokens)


def _sees_images(value: ir.Value) -> bool:
    """Whether image features go into a value."""
    if value.name == IMAGE_FEATURES:
        return True
    node = value.producer()
    return node is not None and any(given is not None and _sees_images(given) for given in node.inputs)
