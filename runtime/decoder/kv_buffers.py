"""The memory of a KV cache: on the host, or on a device that the host cannot look into.

Enters: positions of a slot. Leaves: addresses for sessions to read and write; blocks of keys and values for the host.
Either has two buffers [slots, kv_heads, capacity, head_dim] for each layer: keys in number 2·layer, values in the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue

from pumice.machine.small_pages import sparse_zeros
from pumice.sessions.arrays import DeviceArray, DeviceMemory

Shape: TypeAlias = tuple[int, int, int, int]
"""(slots, kv_heads, capacity, head_dim)."""


class Buffers(Protocol):
    """What a cache does with its memory; `block`s are [2·layers, kv_heads, positions, head_dim]."""

    @property
    def pointers(self) -> list[int]:
        """Where each buffer begins."""
        ...

    def read(self, slot: int, start: int, stop: int) -> NDArray[Any]:
        """A block: the host's copy of a slot's positions `start` … `stop`-1."""
        ...

    def write(self, slot: int, start: int, block: NDArray[Any]) -> None:
        """Put a block into a slot's positions from `start` on."""
        ...

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Make a slot's positions what another's are."""
        ...

    def take(self, other: Any, slot: int, stop: int) -> None:
        """Make a slot's positions up to `stop`-1 what they are in buffers of the same kind."""
        ...


class HostBuffers:
    """NumPy arrays: zeros that cost no memory until they are written."""

    def __init__(self, count: int, shape: Shape, dtype: str) -> None:
        self._arrays = [sparse_zeros(shape, dtype) for _ in range(count)]
        self._values = [OrtValue.ortvalue_from_numpy(array) for array in self._arrays]

    @property
    def pointers(self) -> list[int]:
        """See `Buffers`."""
        return [value.data_ptr() for value in self._values]

    def read(self, slot: int, start: int, stop: int) -> NDArray[Any]:
        """See `Buffers`."""
        return np.stack([array[slot, :, start:stop] for array in self._arrays])

    def write(self, slot: int, start: int, block: NDArray[Any]) -> None:
        """See `Buffers`."""
        for array, part in zip(self._arrays, block, strict=True):
            array[slot, :, start : start + block.shape[2]] = part

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """See `Buffers`."""
        for array in self._arrays:
            array[target, :, start:stop] = array[source, :, start:stop]

    def take(self, other: HostBuffers, slot: int, stop: int) -> None:
        """See `Buffers`."""
        for array, before in zip(self._arrays, other._arrays, strict=True):
            array[slot, :, :stop] = before[slot, :, :stop]


class DeviceBuffers:
    """One array in a device's memory; what is copied there goes from place to place, not through the host.

    Zeros, because attention multiplies what it has masked by 0, and 0 · NaN is NaN.
    """

    def __init__(self, memory: DeviceMemory, count: int, shape: Shape, dtype: str) -> None:
        self._shape, self._count = shape, count
        self._array = memory.zeros((count, *shape), dtype)

    @property
    def pointers(self) -> list[int]:
        """See `Buffers`."""
        return [self._array[i : i + 1].pointer for i in range(self._count)]

    def read(self, slot: int, start: int, stop: int) -> NDArray[Any]:
        """See `Buffers`."""
        _, heads, _, width = self._shape
        block = np.empty((self._count * heads, stop - start, width), self._array.dtype)
        for i, run in enumerate(self._runs(slot, start, stop)):
            block[i] = run.numpy()
        return block.reshape(self._count, heads, stop - start, width)

    def write(self, slot: int, start: int, block: NDArray[Any]) -> None:
        """See `Buffers`."""
        runs = self._runs(slot, start, start + block.shape[2])
        for run, part in zip(runs, block.reshape(-1, *block.shape[2:]), strict=True):
            run.write(np.ascontiguousarray(part))

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """See `Buffers`. Of a buffer all that is filled and what lies between: a call costs more than its bytes."""
        if start == stop:
            return
        _, heads, capacity, width = self._shape
        span = ((heads - 1) * capacity + stop - start) * width
        for buffer in range(self._count):
            taken = self._array.part(self._offset(buffer, source, 0) + start * width, (span,))
            self._array.part(self._offset(buffer, target, 0) + start * width, (span,)).write(taken)

    def take(self, other: DeviceBuffers, slot: int, stop: int) -> None:
        """See `Buffers`."""
        for run, before in zip(self._runs(slot, 0, stop), other._runs(slot, 0, stop), strict=True):
            run.write(before)

    def _runs(self, slot: int, start: int, stop: int) -> Iterator[DeviceArray]:
        """Positions of one head lie side by side: those of every buffer and head, [stop - start, head_dim]."""
        _, heads, _, width = self._shape
        for buffer in range(self._count):
            for head in range(heads):
                first = self._offset(buffer, slot, head) + start * width
                yield self._array.part(first, (stop - start, width))

    def _offset(self, buffer: int, slot: int, head: int) -> int:
        """The element where a head's positions begin."""
        slots, heads, capacity, width = self._shape
        return ((buffer * slots + slot) * heads + head) * capacity * width
