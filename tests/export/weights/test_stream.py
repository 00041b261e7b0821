"""Weights on their way: pieces of any size give the same bytes, and what a stored type cannot hold is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from pumice.errors import CheckpointError
from pumice.export.recipes.recipe import Storage
from pumice.export.weights import parameters
from pumice.export.weights import stream as weight_stream
from pumice.export.weights.parameters import Parameter, Piece, float_parameter, quantized_parameter
from pumice.export.weights.quantization import quantize_rows
from pumice.export.weights.stream import ALIGNMENT, write_weights
from pumice.models import weights as model_weights
from pumice.models.weights import assemble, matrix, plain

SHAPES = {"q": (40, 24), "k": (8, 24), "norm": (24,), "table": (50, 24), "big": (90, 64)}
TENSORS = {
    name: torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    for seed, (name, shape) in enumerate(SHAPES.items())
}
TYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
}
QKV, TABLE = matrix(["q", "k"], [40, 8], 24), plain("table", 50, 24)


def read(name: str, start: int, stop: int) -> torch.Tensor:
    return TENSORS[name][start:stop]


def whole(name: str) -> torch.Tensor:
    return TENSORS[name]


def model_of(shapes: dict[str, tuple[tuple[int, ...], ir.DataType]]) -> ir.Model:
    inputs = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        for name, (shape, dtype) in shapes.items()
    ]
    return ir.Model(ir.Graph(inputs, [], nodes=[], opset_imports={"": 21}, name="g"), ir_version=10)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("values", [1, 100, 1 << 22])
def test_float_parameters(
    values: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (parameters, model_weights):
        monkeypatch.setattr(module, "PIECE_VALUES", values)
    monkeypatch.setattr(weight_stream, "AHEAD_BYTES", 3 * values)
    weights = {"qkv": QKV, "table": TABLE, "norm": plain("norm", 24), "big": plain("big", 90, 64)}
    model = model_of({name: (weight.shape, TYPES[dtype]) for name, weight in weights.items()})
    told: list[int] = []
    made = [float_parameter(name, weight, read, dtype) for name, weight in weights.items()]
    write_weights(model, made, tmp_path, "data", told.append)
    assert not model.graph.inputs
    for name, weight in weights.items():
        stored = model.graph.initializers[name].const_value
        assert stored is not None
        assert isinstance(stored, ir.ExternalTensor) == (stored.nbytes > 256)
        expected = assemble(weight, whole).to(dtype)
        assert np.array_equal(np.asarray(stored.numpy(), np.float32), expected.float().numpy())
        if stored.nbytes >= ALIGNMENT and isinstance(stored, ir.ExternalTensor):
            assert (stored.offset or 0) % ALIGNMENT == 0
    assert sum(told) == sum(assemble(weight, whole).to(dtype).nbytes for weight in weights.values())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("values", [30, 1 << 22])
def test_quantized_parameters(
    values: int, symmetric: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (parameters, model_weights):
        monkeypatch.setattr(module, "PIECE_VALUES", values)
    storage = Storage(weights="int4", block_size=16, symmetric=symmetric)
    blocks = quantize_rows(torch.cat([TENSORS["q"], TENSORS["k"]]), storage)
    expected = [part for part in (blocks.packed, blocks.scales, blocks.zero_points) if part is not None]
    parameter = quantized_parameter("qkv", QKV, read, storage, torch.float32)
    assert parameter.names == ("qkv.int4", "qkv.scale", "qkv.zero_point")[: len(expected)]
    types = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
    model = model_of(
        {
            name: (tuple(part.shape), type_)
            for name, part, type_ in zip(parameter.names, expected, types, strict=False)
        }
    )
    write_weights(model, [parameter], tmp_path, "data", lambda _: None)
    for name, part in zip(parameter.names, expected, strict=True):
        stored = model.graph.initializers[name].const_value
        assert stored is not None
        assert np.array_equal(stored.numpy(), part.numpy())


def test_no_file_where_nothing_is_large(tmp_path: Path) -> None:
    model = model_of({"norm": ((24,), ir.DataType.FLOAT)})
    made = [float_parameter("norm", plain("norm", 24), read, torch.float32)]
    write_weights(model, made, tmp_path, "data", lambda _: None)
    assert not (tmp_path / "data").exists()


def constant(value: float, dtype: torch.dtype) -> Callable[[str, int, int], torch.Tensor]:
    return lambda _name, start, stop: torch.full((stop - start, 24), value, dtype=dtype)


@pytest.mark.parametrize("weight", [TABLE, QKV], ids=["as it is", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float16_refuses_larger_weights(weight: parameters.Weight, dtype: torch.dtype) -> None:
    made = float_parameter("w", weight, constant(-1e5, dtype), torch.float16)
    with pytest.raises(CheckpointError, match=r"tensor \w+ has a weight of .*e\+0\d, float16 ends at 65504"):
        made.pieces[0].make()
    float_parameter("w", weight, constant(65504, torch.float32), torch.float16).pieces[0].make()


def test_quantising_refuses_what_its_scales_cannot_hold() -> None:
    storage = Storage(weights="int4")
    for value, dtype, told in (
        (1e5, torch.float16, "float16 ends at 65504"),
        (np.nan, torch.float32, "NaN or infinite"),
        (np.inf, torch.float32, "NaN or infinite"),
    ):
        made = quantized_parameter("w", TABLE, constant(value, torch.float32), storage, dtype)
        with pytest.raises(CheckpointError, match=told):
            made.pieces[0].make()


def test_look_ahead_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than AHEAD_BYTES are made before they are written, and one piece at least."""
    monkeypatch.setattr(weight_stream, "AHEAD_BYTES", 250)
    made, written, most = 0, 0, 0
    lock = threading.Lock()

    def make() -> tuple[torch.Tensor, ...]:
        nonlocal made
        with lock:
            made += 100
        return (torch.zeros(25),)

    def advance(nbytes: int) -> None:
        nonlocal written, most
        most = max(most, made - written)
        written += nbytes

    pieces = tuple(Piece(nbytes=100, make=make) for _ in range(20))
    model = model_of({"w": ((500,), ir.DataType.FLOAT)})
    write_weights(model, [Parameter(names=("w",), pieces=pieces)], tmp_path, "data", advance)
    assert written == 2000
    assert 100 <= most <= 300


def test_a_failure_ends_the_threads(tmp_path: Path) -> None:
    def fail() -> tuple[torch.Tensor, ...]:
        raise CheckpointError("gone")

    before, threads = threading.active_count(), torch.get_num_threads()
    pieces = (Piece(nbytes=4, make=fail),) * 5
    model = model_of({"w": ((5,), ir.DataType.FLOAT)})
    with pytest.raises(CheckpointError, match="gone"):
        write_weights(model, [Parameter(names=("w",), pieces=pieces)], tmp_path, "data", lambda _: None)
    assert threading.active_count() == before
    assert torch.get_num_threads() == threads
