"""Graph passes on a traced model without weights: fewer nodes, the same results.

1. onnxscript's optimizer folds constants and removes what is unused, keeping `onnx_ir` metadata.
2. onnxsim simplifies shape arithmetic that is left; it sees no weights, which are graph inputs here.
"""

from __future__ import annotations

import contextlib
import io

import onnx_ir as ir
import onnxscript.optimizer
import onnxsim
from onnx import ModelProto

from pumice.errors import ExportError
from pumice.export.passes.counts import NodeCounts
from pumice.export.trace.tracing import Traced


def simplify(traced: Traced) -> tuple[ir.Model, NodeCounts]:
    """Run the passes; inputs and outputs keep their names, order and dimension names."""
    model = traced.model
    counted = [len(model.graph)]
    onnxscript.optimizer.optimize(model)
    counted.append(len(model.graph))
    simplified = _onnxsim(model)
    counted.append(len(simplified.graph))
    _restore_interface(simplified, model)
    _forget_inner_shapes(simplified)
    _drop_unused_outputs(simplified)
    _name_new_nodes(simplified)
    _name_constants(simplified)
    return simplified, NodeCounts(traced=counted[0], optimized=counted[1], simplified=counted[2])


def _onnxsim(model: ir.Model) -> ir.Model:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints tables
        proto, ok = onnxsim.simplify(ir.to_proto(model))
    if not ok or not isinstance(proto, ModelProto):
        raise ExportError(f"onnxsim could not simplify the graph {model.graph.name}: please report this")
    return ir.from_proto(proto)


def _restore_interface(model: ir.Model, original: ir.Model) -> None:
    for values, originals in (
        (model.graph.inputs, original.graph.inputs),
        (model.graph.outputs, original.graph.outputs),
    ):
        if [value.name for value in values] != [value.name for value in originals]:
            raise ExportError(
                f"simplification changed the interface of {model.graph.name}: please report this"
            )
        for value, before in zip(values, originals, strict=True):
            value.shape, value.type = before.shape, before.type


def _drop_unused_outputs(model: ir.Model) -> None:
    """Optional outputs of fused operators that nobody reads lose their names, so that they are not computed.

    The first output of an operator is never optional.
    """
    kept = set(model.graph.outputs)
    for node in model.graph:
        for output in node.outputs[1:]:
            if node.domain == "com.microsoft" and not output.uses() and output not in kept:
                output.name = ""


def _forget_inner_shapes(model: ir.Model) -> None:
    """ONNX Runtime infers inner shapes itself; the traced names (`u0`) would only mislead."""
    kept = {*model.graph.inputs, *model.graph.outputs}
    for node in model.graph:
        for output in node.outputs:
            if output not in kept:
                output.shape = None
                output.type = None


def _name_new_nodes(model: ir.Model) -> None:
    """Nodes that a pass made take the path of what they feed; `pumice.export.trace.tracing` names the others."""
    taken = {node.name for node in model.graph}
    for node in reversed(list(model.graph)):
        if node.name and node.name.startswith("/"):
            continue
        reader = next((use.node.name for output in node.outputs for use in output.uses()), None) or "/"
        path = f"{reader.rpartition('/')[0]}/{node.op_type}"
        suffix = 2
        node.name = path
        while node.name in taken:
            node.name, suffix = f"{path}_{suffix}", suffix + 1
        taken.add(node.name)


def _name_constants(model: ir.Model) -> None:
    """Constants take the name of the first input that reads them: the passes only number them."""
    constants = list(model.graph.initializers.values())
    model.graph.initializers.clear()
    for value in constants:
        for use in list(value.uses())[:1]:
            value.name = f"{use.node.name}_input_{use.idx}"
            model.graph.register_initializer(value)
