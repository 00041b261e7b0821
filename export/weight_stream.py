"""Weights from a checkpoint into a graph's external data, one parameter at a time.

A graph comes with its parameters as graph inputs (`pumice.export.tracing`). Each is made from the checkpoint, written,
and dropped before the next is read, so memory is bounded by the largest parameter, not by the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import Tensor

from pumice.export.quantization import Int4, quantize_rows, quantized_names
from pumice.models.weights import Weight, assemble

ALIGNMENT = 4096
"""Large tensors start on a page, so that ONNX Runtime can map them; bytes."""
INLINE_BYTES = 256
"""Smaller tensors are kept in the graph file itself."""
CHUNK_BYTES = 32 << 20
"""Float32 bytes that are quantised at a time."""

Read = Callable[[str, int, int], Tensor]
"""Rows start … stop of a checkpoint's tensor, by its canonical name."""
Array = NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One or two initializers, and what gives their contents in that order."""

    names: tuple[str, ...]
    make: Callable[[], Iterator[Array]]


def float_parameter(name: str, weight: Weight, read: Read) -> Parameter:
    """A parameter stored as float32."""

    def whole(source: str) -> Tensor:
        return read(source, 0, dict(weight.sources)[source][0])

    return Parameter(names=(name,), make=lambda: iter([assemble(weight, whole).numpy()]))


def int4_parameter(name: str, weight: Weight, read: Read, scheme: Int4) -> Parameter:
    """A matrix stored as packed 4-bit blocks and their scales; rows are outputs, whatever the parameter's layout."""

    def make() -> Iterator[Array]:
        columns = weight.sources[0][1][1]
        step = max(1, CHUNK_BYTES // (4 * columns))
        parts = [
            quantize_rows(read(source, start, min(start + step, rows)).float().numpy(), scheme.block_size)
            for source, (rows, _) in weight.sources
            for start in range(0, rows, step)
        ]
        for packed_or_scales in zip(*parts, strict=True):
            yield np.concatenate(packed_or_scales)

    return Parameter(names=quantized_names(name), make=make)


def constant_parameter(name: str, array: Array) -> Parameter:
    """A parameter that is computed rather than read."""
    return Parameter(names=(name,), make=lambda: iter([array]))


def write_weights(
    model: ir.Model, parameters: list[Parameter], folder: Path, location: str, advance: Callable[[int], None]
) -> None:
    """Turn the model's parameter inputs into initializers, large ones in `folder/location`.

    `advance` is told the bytes written. The file is not made where nothing is large.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    with (folder / location).open("wb") as file:
        for parameter in parameters:
            for name, array in zip(parameter.names, parameter.make(), strict=True):
                value = inputs[name]
                fitted = _fitted(value, array)
                value.const_value = _stored(name, fitted, file, location, folder)
                _make_initializer(model, value)
                advance(array.nbytes)
        empty = file.tell() == 0
    if empty:
        (folder / location).unlink()


def share_weights(model: ir.Model, source: ir.Model, names: dict[str, str]) -> None:
    """Give the model's parameters the bytes of another graph's: `names` maps theirs to the source's.

    The shapes may differ as long as the bytes are as many: a table's rows are MatMulNBits' rows.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    for name, source_name in names.items():
        stored, value = source.graph.initializers[source_name].const_value, inputs[name]
        assert value.shape is not None
        if isinstance(stored, ir.ExternalTensor):
            shared: ir.TensorProtocol = ir.ExternalTensor(
                stored.location, stored.offset, stored.length, stored.dtype,
                shape=value.shape, name=name, base_dir=stored.base_dir,
            )  # fmt: skip
        else:
            assert stored is not None
            shared = ir.tensor(stored.numpy().reshape(value.shape.numpy()), name=name)
        assert shared.nbytes == stored.nbytes
        value.const_value = shared
        _make_initializer(model, value)


def parameter_bytes(model: ir.Model, parameters: list[Parameter]) -> int:
    """Bytes that `write_weights` is going to write."""
    inputs = {value.name: value for value in model.graph.inputs}
    return sum(_nbytes(inputs[name]) for parameter in parameters for name in parameter.names)


def _stored(name: str, array: Array, file: BinaryIO, location: str, folder: Path) -> ir.TensorProtocol:
    if array.nbytes <= INLINE_BYTES:
        return ir.tensor(array, name=name)
    if array.nbytes >= ALIGNMENT:
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
    offset = file.tell()
    file.write(np.ascontiguousarray(array).data.cast("B"))  # ndarray.tofile hides errno
    dtype = ir.DataType.from_numpy(array.dtype)
    shape = ir.Shape(array.shape)
    return ir.ExternalTensor(location, offset, array.nbytes, dtype, shape=shape, name=name, base_dir=folder)


def _make_initializer(model: ir.Model, value: ir.Value) -> None:
    model.graph.inputs.remove(value)
    model.graph.register_initializer(value)


def _fitted(value: ir.Value, array: Array) -> Array:
    """The array in the initializer's shape: a quantised table is flat where a quantised matrix has blocks."""
    assert value.shape is not None
    assert value.dtype is not None
    assert array.dtype == value.dtype.numpy(), f"{value.name}: {array.dtype}, not {value.dtype}"
    return array.reshape(value.shape.numpy())


def _nbytes(value: ir.Value) -> int:
    assert value.shape is not None
    assert value.dtype is not None
    return int(np.prod(value.shape.numpy(), dtype=np.int64) * value.dtype.itemsize)
