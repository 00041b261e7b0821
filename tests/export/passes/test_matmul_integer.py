"""Integer products on ONNX Runtime: what they compute, how near that is, and that rows do not depend on each other."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pumice.export.passes.matmul_integer import make_integer_products
from pumice.export.recipes.recipe import Storage
from pumice.export.weights.quantization import quantize_outputs

STORAGE = Storage(weights="int8", activations="int8")


def session_of(matrices: list[torch.Tensor]) -> onnxruntime.InferenceSession:
    """x [N, T, in] times each of the matrices [out, in], as integer products."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(ir.to_proto(model_of(matrices)).SerializeToString(), options)


def model_of(matrices: list[torch.Tensor]) -> ir.Model:
    """The graph of it."""
    width = matrices[0].shape[1]
    x = ir.Value(name="x", shape=ir.Shape(("N", "T", width)), type=ir.TensorType(ir.DataType.FLOAT))
    weights, nodes = [], []
    for number, matrix in enumerate(matrices):
        shape = ir.Shape((width, matrix.shape[0]))
        weights.append(ir.Value(name=f"W{number}", shape=shape, type=ir.TensorType(ir.DataType.FLOAT)))
        nodes.append(ir.node("MatMul", [x, weights[-1]], name=f"/{number}/MatMul"))
        y = nodes[-1].outputs[0]
        y.name, y.type = f"y{number}", ir.TensorType(ir.DataType.FLOAT)
        y.shape = ir.Shape(("N", "T", matrix.shape[0]))
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph(
        [x, *weights], outputs, nodes=nodes, opset_imports={"": 21, "com.microsoft": 1}, name="g"
    )
    model = ir.Model(graph, ir_version=10)
    make_integer_products(model, {weight.name or "": STORAGE for weight in weights})
    fill(graph, {f"W{number}": matrix for number, matrix in enumerate(matrices)})
    return model


def fill(graph: ir.Graph, matrices: dict[str, torch.Tensor]) -> None:
    """Make the weights that the pass asks for initializers."""
    inputs = {value.name: value for value in graph.inputs}
    for name, matrix in matrices.items():
        q, scales = quantize_outputs(matrix)
        for part, tensor in ((f"{name}.int8", q.T.contiguous()), (f"{name}.scale", scales)):
            inputs[part].const_value = ir.tensor(tensor.numpy(), name=part)
            graph.inputs.remove(inputs[part])
            graph.register_initializer(inputs[part])
    assert [value.name for value in graph.inputs] == ["x"]


def expected(x: np.ndarray, matrix: torch.Tensor) -> np.ndarray:
    """The module's formula in float64."""
    q, scales = quantize_outputs(matrix)
    step = np.maximum(np.abs(x).max(-1, keepdims=True) * np.float32(1 / 127), np.float32(1e-30))
    rounded = np.clip(np.rint(x / step), -128, 127).astype(np.float64)
    return step * (rounded @ q.numpy().T.astype(np.float64)) * scales.numpy()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 200), st.integers(1, 70)),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([1e-6, 1.0, 300.0]),
)
def test_computes_the_formula(shape: tuple[int, int, int, int], seed: int, spread: float) -> None:
    n, t, width, out = shape
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(out, width, generator=generator)
    x = spread * torch.randn(n, t, width, generator=generator).numpy()
    found = session_of([matrix]).run(None, {"x": x})[0]
    exact = expected(x, matrix)
    # x / step may be rounded to either side where it is halfway between two integers, up to float32
    slack = 1e-3 * np.abs(x).max() * matrix.abs().max().item()
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=slack * 2)


def gated(gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, *, shown: bool = False) -> ir.Model:
    """x [N, T, in] → (relu(x·gate) * (x·up))·down; with `shown`, what goes into the last product is an output, too."""
    x = ir.Value(name="x", shape=ir.Shape(("N", "T", gate.shape[1])), type=ir.TensorType(ir.DataType.FLOAT))
    weights = [
        ir.Value(name=name, shape=ir.Shape(matrix.T.shape), type=ir.TensorType(ir.DataType.FLOAT))
        for name, matrix in (("gate", gate), ("up", up), ("down", down))
    ]
    nodes = [ir.node("MatMul", [x, weights[0]], name="/gate/MatMul")]
    nodes += [ir.node("Relu", nodes[0].outputs, name="/Relu")]
    nodes += [ir.node("MatMul", [x, weights[1]], name="/up/MatMul")]
    nodes += [ir.node("Mul", [nodes[1].outputs[0], nodes[2].outputs[0]], name="/Mul")]
    nodes += [ir.node("MatMul", [nodes[3].outputs[0], weights[2]], name="/down/MatMul")]
    for node, width in zip(nodes, [*[gate.shape[0]] * 4, down.shape[0]], strict=True):
        value = node.outputs[0]
        value.name, value.type = f"{node.name}_y", ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(("N", "T", width))
    outputs = [nodes[4].outputs[0], *([nodes[3].outputs[0]] if shown else [])]
    graph = ir.Graph(
        [x, *weights], outputs, nodes=nodes, opset_imports={"": 21, "com.microsoft": 1}, name="g"
    )
    model = ir.Model(graph, ir_version=10)
    make_integer_products(model, {weight.name or "": STORAGE for weight in weights})
    fill(graph, {"gate": gate, "up": up, "down": down})
    return model


@pytest.mark.parametrize("shown", [False, True])
def test_a_row_scale_that_cancels_is_left_out(*, shown: bool) -> None:
    """Of the second product, unless somebody reads what is made of it; what leaves is the same."""
    gate, up, down = torch.randn(24, 16), torch.randn(24, 16), torch.randn(9, 24)
    model = gated(gate, up, down, shown=shown)
    scaled = [
        node.name for node in model.graph if node.op_type == "Mul" and node.name in ("/gate/Mul", "/up/Mul")
    ]
    assert scaled == (["/gate/Mul", "/up/Mul"] if shown else ["/gate/Mul"])
    x = np.random.default_rng(2).standard_normal((2, 3, 16)).astype(np.float32)
    x[0, 1] *= 1e4
    x[1, 2] = 0
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    found = session.run(None, {"x": x})
    inner = np.maximum(expected(x, gate), 0) * expected(x, up)
    exact = expected(inner.astype(np.float32), down)
    assert (np.abs(found[0] - exact) <= 0.02 * np.abs(exact).max(-1, keepdims=True)).all()
    assert (found[0][1, 2] == 0).all()
    if shown:
        np.testing.assert_allclose(found[1], inner, rtol=1e-4, atol=1e-4 * np.abs(inner).max())


def test_what_depends_on_shapes_alone_is_made_once() -> None:
    """One Expand of zero points for rows of as many tokens, and one Shape for each width."""
    model = gated(torch.randn(24, 16), torch.randn(24, 16), torch.randn(9, 24))
    made = [node.op_type for node in model.graph]
    assert made.count("QuantizeLinear") == 2
    assert made.count("Expand") == 1
    assert made.count("Shape") == 3  # of the zero points, of rows of 16, of rows of 24


def test_products_of_one_input_round_it_once() -> None:
    matrices = [torch.randn(5, 16), torch.randn(9, 16)]
    session = session_of(matrices)
    x = np.random.default_rng(0).standard_normal((2, 3, 16)).astype(np.float32)
    for found, matrix in zip(session.run(None, {"x": x}), matrices, strict=True):
        assert np.abs(found - x @ matrix.numpy().T).max() < 0.2
    model = session.get_modelmeta()
    assert model is not None


def test_each_matrix_has_a_zero_point_of_its_own() -> None:
    """0, as signed as the weights: without, versions before 1.30 abort on x86 without VNNI; all refuse a shared one."""
    model = model_of([torch.randn(5, 16), torch.randn(9, 16), torch.randn(16, 16)])
    products = [node for node in model.graph if node.op_type == "MatMulIntegerToFloat"]
    zero_points = [node.inputs[5] for node in products]
    assert len({value.name for value in zero_points if value is not None}) == len(products) == 3
    for value in zero_points:
        assert value is not None
        assert value.const_value is not None
        array = value.const_value.numpy()
        assert (array.dtype, array.shape, array.item()) == (np.int8, (), 0)


def test_rows_do_not_depend_on_each_other() -> None:
    """Bit for bit, next to a row a million times as large."""
    session = session_of([torch.randn(33, 96)])
    x = np.random.default_rng(1).standard_normal((1, 20, 96)).astype(np.float32)
    x[0, 7] *= 1e6
    whole = session.run(None, {"x": x})[0]
    for start, stop in ((0, 1), (3, 7), (7, 8), (8, 20)):
        np.testing.assert_array_equal(session.run(None, {"x": x[:, start:stop]})[0], whole[:, start:stop])


def test_zeros_and_infinities() -> None:
    """A row of zeros gives zeros; what is not finite is not hidden."""
    session = session_of([torch.randn(4, 8)])
    x = np.zeros((1, 3, 8), np.float32)
    x[0, 1, 2] = np.inf
    x[0, 2] = 1
    found = session.run(None, {"x": x})[0]
    assert (found[0, 0] == 0).all()
    assert not np.isfinite(found[0, 1]).any()
    assert np.isfinite(found[0, 2]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_tell_of_weights_that_are_not_finite(value: float) -> None:
    matrix = torch.randn(3, 4)
    matrix[1, 2] = value
    _, scales = quantize_outputs(matrix)
    assert scales.isfinite().tolist() == [True, False, True]
