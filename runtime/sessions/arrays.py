"""Arrays that lie in an accelerator's memory, whole or in part, and copies between them that never touch the host.

Enters: shapes, NumPy arrays. Leaves: `DeviceArray`s, which sessions read and write where they are.

NumPy knows no memory but the host's, and ONNX Runtime only whole values. But a binding makes a value of any address, so
that a part of an array is one too; and a value can be copied into another on the same device
([why this way](../docs/decisions/cuda.md)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray
from onnxruntime import OrtValue

_SEED = 1 << 20
"""Bytes of zeros that come from the host; the others are copies of them."""


class DeviceMemory:
    """Memory that `session` computes in: `device` is `cuda`, or in tests `cpu`."""

    def __init__(self, session: Any, device: str) -> None:
        self._session, self.device = session, device
        self._output = session.get_outputs()[0].name

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """An array of whatever was there before.

        Raises:
            RuntimeError: there is not so much memory.
        """
        value = OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype).type, self.device, 0)
        return DeviceArray(self, value, value.data_ptr(), tuple(shape), np.dtype(dtype))

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """An array of zeros; next to none of them come from the host. Raises as `empty`."""
        array = self.empty(shape, dtype)
        size = math.prod(array.shape)
        filled = min(size, _SEED // array.dtype.itemsize)
        array.part(0, (filled,)).write(np.zeros(filled, array.dtype))
        while filled < size:  # twice as many each time
            count = min(filled, size - filled)
            array.part(filled, (count,)).write(array.part(0, (count,)))
            filled += count
        return array

    def upload(self, array: NDArray[Any]) -> DeviceArray:
        """A copy of a host's array."""
        copy = self.empty(array.shape, array.dtype)
        copy.write(array)
        return copy

    def adopt(self, value: OrtValue, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """A value that a run left in this memory, its elements in another shape."""
        return DeviceArray(self, value, value.data_ptr(), tuple(shape), np.dtype(dtype))

    def value_at(self, pointer: int, shape: Sequence[int], dtype: np.dtype[Any]) -> OrtValue:
        """A value over memory that somebody else keeps; of no elements it has none."""
        if not math.prod(shape):
            return OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type, self.device, 0)
        binding = self._session.io_binding()
        binding.bind_output(self._output, self.device, 0, dtype.type, list(shape), pointer)
        return binding.get_outputs()[0]


class DeviceArray:
    """A contiguous array at `pointer`, an address of the device; keeps the memory that it is a part of."""

    def __init__(
        self,
        memory: DeviceMemory,
        owner: OrtValue,
        pointer: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self._memory, self._owner = memory, owner
        self.pointer, self.shape, self.dtype = pointer, shape, dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> DeviceArray:
        """Some neighbouring rows, not copied."""
        start, stop, step = rows.indices(len(self))
        assert step == 1
        row = self.shape[1:]
        return self.part(start * math.prod(row), (max(0, stop - start), *row))

    def row(self, index: int) -> DeviceArray:
        """A row, not copied."""
        return self.part(index * math.prod(self.shape[1:]), self.shape[1:])

    def part(self, offset: int, shape: Sequence[int]) -> DeviceArray:
        """The elements from number `offset` on, as an array of `shape`, not copied."""
        assert offset >= 0
        assert offset + math.prod(shape) <= math.prod(self.shape)
        pointer = self.pointer + offset * self.dtype.itemsize
        return DeviceArray(self._memory, self._owner, pointer, tuple(shape), self.dtype)

    @property
    def value(self) -> OrtValue:
        """The array as sessions take it, for as long as the array is kept."""
        return self._memory.value_at(self.pointer, self.shape, self.dtype)

    def write(self, source: NDArray[Any] | DeviceArray) -> None:
        """Take the values of an array of equal shape: from the host, or without it."""
        assert source.shape == self.shape
        assert source.dtype == self.dtype
        if math.prod(self.shape):
            self.value.update_inplace(source.value if isinstance(source, DeviceArray) else source)

    def numpy(self) -> NDArray[Any]:
        """A copy for the host."""
        if not math.prod(self.shape):
            return np.zeros(self.shape, self.dtype)
        return np.array(self.value.numpy())


Rows: TypeAlias = "NDArray[np.float32] | DeviceArray"
"""Vectors float32 [M, D], on the host or on the device; slices of rows are alike."""


def bind_rows(binding: Any, name: str, rows: Rows) -> None:
    """Bind an input; a device's array must be kept until the run has ended."""
    if isinstance(rows, DeviceArray):
        binding.bind_ortvalue_input(name, rows.value)
    else:
        binding.bind_cpu_input(name, rows)
