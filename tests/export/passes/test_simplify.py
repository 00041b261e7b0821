"""What a simplified graph keeps, drops and calls its parts."""

from __future__ import annotations

import onnx_ir as ir

from pumice.export.passes.simplify import simplify
from pumice.export.trace.tracing import Traced


def skip_norms() -> Traced:
    """Two sums with norms; the second's sum is not read, nor is any of the optional statistics. Then x · (1 + 1)."""
    inputs = [
        ir.Value(name=name, shape=ir.Shape([2, 4]), type=ir.TensorType(ir.DataType.FLOAT)) for name in "xy"
    ]
    weight = ir.Value(name="weight", shape=ir.Shape([4]), type=ir.TensorType(ir.DataType.FLOAT))

    def skip_norm(name: str, x: ir.Value, skip: ir.Value) -> ir.Node:
        outputs = [ir.Value(name=f"{name}_output_{index}") for index in range(4)]
        operator = "SkipSimplifiedLayerNormalization"
        return ir.Node("com.microsoft", operator, [x, skip, weight], outputs=outputs, name=name)

    first = skip_norm("/first/norm", *inputs)
    second = skip_norm("/second/norm", first.outputs[0], first.outputs[3])
    one = ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor([1.0]))], name="/scale/Constant")
    two = ir.Node("", "Add", [one.outputs[0], one.outputs[0]], name="/scale/Add")
    scaled = ir.Node("", "Mul", [second.outputs[0], two.outputs[0]], name="/scale/Mul")
    result = scaled.outputs[0]
    result.name, result.shape, result.type = "result", ir.Shape([2, 4]), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [*inputs, weight], [result], nodes=[first, second, one, two, scaled],
        opset_imports={"": 21, "com.microsoft": 1}, name="norms",
    )  # fmt: skip
    return Traced(model=ir.Model(graph, ir_version=10), inputs=("x", "y"), parameters=("weight",))


def test_outputs_that_nobody_reads_are_not_computed() -> None:
    model, _ = simplify(skip_norms())
    named = {node.name: [bool(output.name) for output in node.outputs] for node in model.graph}
    assert named["/first/norm"] == [True, False, False, True]
    assert named["/second/norm"] == [True, False, False, False]


def test_constants_are_named_after_their_readers() -> None:
    model, counts = simplify(skip_norms())
    (constant,) = model.graph.initializers.values()
    assert constant.name == "/scale/Mul_input_1"
    assert constant.const_value is not None
    assert constant.const_value.numpy().tolist() == [2.0]
    assert counts.traced == 5
    assert counts.simplified == len(model.graph) == 3
