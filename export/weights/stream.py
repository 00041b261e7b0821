"""Weights from a checkpoint into a graph's external data, a few rows at a time.

A graph comes with its parameters as graph inputs (`pumice.export.trace.tracing`). Each is cut into pieces, which
threads make from the checkpoint (`pumice.export.weights.parameters`) a few ahead of the one that is being written; so
memory is bounded by the largest piece, not by the model.

    checkpoint ─read, cast or quantise─▶ piece 4   piece 3   piece 2 ─write, in order─▶ decoder.onnx_data
                     threads             being made, or waiting, within AHEAD_BYTES
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from pumice.export.weights.parameters import Parameter, Piece

ALIGNMENT = 4096
"""Large tensors start on a page, so that ONNX Runtime can map them; bytes."""
INLINE_BYTES = 256
"""Smaller tensors are kept in the graph file itself."""
AHEAD_BYTES = 32 << 20
"""Memory of pieces that are made ahead; a larger one is made alone."""
MAX_THREADS = 8
"""Beyond this the disk is slower."""


def write_weights(
    model: ir.Model,
    parameters: Sequence[Parameter],
    folder: Path,
    location: str,
    advance: Callable[[int], None],
) -> None:
    """Turn the model's parameter inputs into initializers, large ones in `folder/location`.

    `advance` is told the bytes written. The file is not made where nothing is large.

    Raises:
        CheckpointError: weights that the stored type cannot hold.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    end = 0
    with (
        (folder / location).open("wb") as file,
        closing(_made_ahead(_pieces(parameters))) as made,
    ):
        for parameter in parameters:
            places = []
            for name in parameter.names:
                places.append(_Place(inputs[name], file, end))
                end = places[-1].end
            for _ in parameter.pieces:
                for place, tensor in zip(places, next(made), strict=True):
                    advance(place.write(tensor))
            parameter.release()
            for place in places:
                place.value.const_value = place.stored(location, folder)
                _make_initializer(model, place.value)
    if end == 0:
        (folder / location).unlink()


def _pieces(parameters: Sequence[Parameter]) -> Iterator[Piece]:
    """All pieces in their order; what a parameter needs to know is found before its first."""
    for parameter in parameters:
        parameter.prepare()
        yield from parameter.pieces


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
            shared = ir.tensor(stored.numpy().reshape(value.shape.numpy()), dtype=stored.dtype, name=name)
        assert shared.nbytes == stored.nbytes
        value.const_value = shared
        _make_initializer(model, value)


def parameter_bytes(model: ir.Model, parameters: Iterable[Parameter]) -> int:
    """Bytes that `write_weights` is going to write."""
    inputs = {value.name: value for value in model.graph.inputs}
    return sum(_nbytes(inputs[name]) for parameter in parameters for name in parameter.names)


class _Place:
    """Where an initializer's bytes go: to a range of the file, or into memory where they are few."""

    def __init__(self, value: ir.Value, file: BinaryIO, end: int) -> None:
        self.value, self._file = value, file
        self._nbytes = _nbytes(value)
        self._inline = bytearray() if self._nbytes <= INLINE_BYTES else None
        self._offset = -(-end // ALIGNMENT) * ALIGNMENT if self._nbytes >= ALIGNMENT else end
        self.end = end if self._inline is not None else self._offset + self._nbytes
        self._written = 0

    def write(self, tensor: Tensor) -> int:
        """The next rows; returns their bytes."""
        dtype = self.value.dtype
        assert dtype is not None
        assert str(tensor.dtype) == f"torch.{dtype.name.lower()}" or (tensor.dtype, dtype) in _NAMED_OTHERWISE
        data = tensor.contiguous().flatten().view(torch.uint8).numpy().data
        if self._inline is not None:
            self._inline += data
        else:
            self._file.seek(self._offset + self._written)
            self._file.write(data)
        self._written += data.nbytes
        return data.nbytes

    def stored(self, location: str, folder: Path) -> ir.TensorProtocol:
        """The initializer's contents, once all is written."""
        value = self.value
        assert value.shape is not None
        assert value.dtype is not None
        assert value.name is not None
        assert self._written == self._nbytes, f"{value.name}: {self._written} bytes, not {self._nbytes}"
        if self._inline is None:
            return ir.ExternalTensor(
                location, self._offset, self._nbytes, value.dtype,
                shape=value.shape, name=value.name, base_dir=folder,
            )  # fmt: skip
        array = np.frombuffer(bytes(self._inline), value.dtype.numpy()).reshape(value.shape.numpy())
        return ir.tensor(array, dtype=value.dtype, name=value.name)


_NAMED_OTHERWISE = {(torch.float32, ir.DataType.FLOAT), (torch.float64, ir.DataType.DOUBLE)}


def _made_ahead(pieces: Iterable[Piece]) -> Generator[tuple[Tensor, ...], None, None]:
    """What the pieces make, in their order, with threads making the next ones meanwhile.

    Each thread computes by itself: torch's own threads would wait for each other at every operation.
    """
    before = torch.get_num_threads()
    threads = min(MAX_THREADS, _cpus())
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[tuple[int, Future[tuple[Tensor, ...]]]] = deque()
    ahead = 0
    try:
        for piece in pieces:
            while waiting and ahead + piece.nbytes > AHEAD_BYTES:
                nbytes, future = waiting.popleft()
                yield future.result()
                del future
                ahead -= nbytes
            waiting.append((piece.nbytes, pool.submit(piece.make)))
            ahead += piece.nbytes
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_initializer(model: ir.Model, value: ir.Value) -> None:
    model.graph.inputs.remove(value)
    model.graph.register_initializer(value)


def _nbytes(value: ir.Value) -> int:
    assert value.shape is not None
    assert value.dtype is not None
    return int(np.prod(value.shape.numpy(), dtype=np.int64) * value.dtype.itemsize)
