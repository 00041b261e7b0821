"""The operators that quantised matrices become, on ONNX Runtime: they compute with what the blocks stand for."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from pumice.export.passes.matmul_nbits import quantize_products, quantize_table
from pumice.export.recipes.recipe import Storage
from pumice.export.weights.quantization import quantize_rows, quantized_names
from tests.dequantize import dequantize_rows

ROWS = 40
FLOATS = {"float32": (torch.float32, ir.DataType.FLOAT), "float16": (torch.float16, ir.DataType.FLOAT16)}
Kind = Literal["Gather", "MatMul", "FusedMatMul"]


def model_of(kind: Kind, columns: int, dtype: ir.DataType) -> ir.Model:
    """x times (or looked up in) a parameter W of `ROWS` × `columns`, in the layout of the kind."""
    shape = (columns, ROWS) if kind == "MatMul" else (ROWS, columns)
    w = ir.Value(name="W", shape=ir.Shape(shape), type=ir.TensorType(dtype))
    is_table = kind == "Gather"
    x = ir.Value(
        name="x",
        shape=ir.Shape((1, 5) if is_table else (1, 5, columns)),
        type=ir.TensorType(ir.DataType.INT64 if is_table else dtype),
    )
    attributes = {"Gather": {"axis": 0}, "MatMul": {}, "FusedMatMul": {"transB": 1}}[kind]
    domain = "com.microsoft" if kind == "FusedMatMul" else ""
    node = ir.node(kind, [w, x] if is_table else [x, w], attributes, domain=domain, name=f"/{kind}")
    y = node.outputs[0]
    y.name, y.type = "y", ir.TensorType(dtype)
    y.shape = ir.Shape((1, 5, columns if is_table else ROWS))
    graph = ir.Graph([x, w], [y], nodes=[node], opset_imports={"": 21, "com.microsoft": 1}, name="g")
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("kind", ["Gather", "MatMul", "FusedMatMul"])
@pytest.mark.parametrize("floats", FLOATS)
@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(
    ("columns", "block"), [(256, 32), (100, 32), (48, 32), (100, 16), (96, 128), (256, 256)]
)
def test_computes_with_the_blocks(
    columns: int, block: int, symmetric: bool, weights: Any, floats: str, kind: Kind
) -> None:
    """In float arithmetic; columns that blocks do not divide included."""
    storage = Storage(weights=weights, block_size=block, symmetric=symmetric, accuracy_level=0)
    torch_type, dtype = FLOATS[floats]
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(ROWS, columns, generator=generator).to(torch_type)
    blocks = quantize_rows(matrix, storage, torch_type)
    model = model_of(kind, columns, dtype)
    (quantize_table if kind == "Gather" else quantize_products)(model, {"W": storage})
    inputs = {value.name: value for value in model.graph.inputs}
    parts = [part for part in (blocks.packed, blocks.scales, blocks.zero_points) if part is not None]
    for name, part in zip(quantized_names("W", storage), parts, strict=True):
        value = inputs[name]
        assert value.shape is not None
        value.const_value = ir.tensor(part.numpy().reshape(value.shape.numpy()), name=name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    stands_for = dequantize_rows(blocks, storage, columns).numpy()
    if kind == "Gather":
        ids = np.array([[0, 7, 39, 7, 1]])
        np.testing.assert_allclose(session.run(None, {"x": ids})[0], stands_for[ids], rtol=2e-3)
        return
    x = torch.randn(1, 5, columns, generator=generator).to(torch_type).numpy()
    expected = x.astype(np.float32) @ stands_for.T
    error = np.abs(session.run(None, {"x": x})[0] - expected).max()
    assert error < (1e-4 if floats == "float32" else 2e-2) * np.sqrt(columns)


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_attributes(weights: Any) -> None:
    storage = Storage(weights=weights, accuracy_level=4)
    model = model_of("MatMul", 64, ir.DataType.FLOAT)
    quantize_products(model, {"W": storage})
    (node,) = model.graph
    assert node.op_type == "MatMulNBits"
    assert node.attributes["accuracy_level"].as_int() == 4
    assert node.attributes["bits"].as_int() == storage.bits
    assert node.name == "/MatMulNBits"


def test_other_parameters_are_left() -> None:
    model = model_of("MatMul", 64, ir.DataType.FLOAT)
    quantize_products(model, {"V": Storage(weights="int4")})
    quantize_table(model, {"W": Storage(weights="int4")})
    assert [node.op_type for node in model.graph] == ["MatMul"]
