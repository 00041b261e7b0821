"""The decoder's keys and values of all positions so far, in buffers that the decoder reads and writes in place.

Each buffer is [slots, kv_heads, capacity, head_dim], a slot for each sequence. Slots that lie side by side are bound as
one batch, as past and as present at once, so that a token adds its own row and nothing is copied:

    slot 0   0 … length-1   length … capacity-1
             filled         not yet (memory that the system has not even given, on the CPU)
    slot 1   …
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue

from pumice.errors import InsufficientMemoryError
from pumice.keys import Key, common_prefix
from pumice.manifest import DecoderShape
from pumice.plan import check_cache

_STEP = 64
"""Capacities are multiples of this many positions."""


class KVCache:
    """Keys and values of `slots` sequences, each with room for `capacity` positions.

    `keys[slot]` says what every filled position holds: a slot is filled as far as it has keys.
    """

    def __init__(self, shape: DecoderShape, capacity: int, device: str, slots: int = 1) -> None:
        self.shape, self.device, self.slots = shape, device, slots
        self.capacity = self._rounded(capacity)
        self.keys: list[list[Key]] = [[] for _ in range(slots)]
        self._arrays, self._buffers = self._allocated(self.capacity)

    def length(self, slot: int) -> int:
        """Positions of a slot that are filled."""
        return len(self.keys[slot])

    def rewind(self, slot: int, length: int) -> None:
        """Forget a slot's positions from `length` on; the next tokens overwrite them."""
        del self.keys[slot][length:]

    def fill(self, slot: int, keys: Sequence[Key]) -> None:
        """Note what the decoder wrote behind a slot's filled positions."""
        self.keys[slot].extend(keys)

    def bind(self, binding: Any, first: int, count: int) -> None:
        """Bind `count` slots from `first` on as a batch, as past and as present."""
        shape = (count, self.shape.kv_heads, self.capacity, self.shape.head_dim)
        dtype = np.dtype(self.shape.kv_dtype)
        offset = first * math.prod(shape[1:]) * dtype.itemsize
        for i, buffer in enumerate(self._buffers):
            tensor = f"{i // 2}.{'value' if i % 2 else 'key'}"
            place = (self.device, 0, dtype.type, shape, buffer.data_ptr() + offset)
            binding.bind_input(f"past_key_values.{tensor}", *place)
            binding.bind_output(f"present.{tensor}", *place)

    def read(self, slot: int, start: int, stop: int) -> NDArray[Any]:
        """A copy of a slot's positions `start` … `stop`-1, shape = (2·layers, kv_heads, stop-start, head_dim)."""
        return np.stack([array[slot, :, start:stop] for array in self._host()])

    def write(self, slot: int, start: int, block: NDArray[Any]) -> None:
        """Put what `read` gave into a slot's positions from `start` on; its keys are the caller's to note."""
        arrays = self._host()
        for array, part in zip(arrays, block, strict=True):
            array[slot, :, start : start + block.shape[2]] = part
        self._store(arrays)

    def copy(self, source: int, target: int) -> None:
        """Make one slot hold what another holds; what both begin with, as beams do, is not copied."""
        start, stop = common_prefix(self.keys[source], self.keys[target]), self.length(source)
        arrays = self._host()
        for array in arrays:
            array[target, :, start:stop] = array[source, :, start:stop]
        self._store(arrays)
        self.keys[target] = list(self.keys[source])

    def reserve(self, capacity: int) -> None:
        """Make room for so many positions; keeps what is filled, by copying it once where the buffers must grow.

        Raises:
            InsufficientMemoryError: there is not so much memory; the cache is as it was.
        """
        if capacity <= self.capacity:
            return
        try:
            grown = self._rounded(2 * max(capacity, self.capacity))
            arrays, buffers = self._allocated(grown)
        except InsufficientMemoryError:
            grown = self._rounded(capacity)
            arrays, buffers = self._allocated(grown)
        kept = [self.read(slot, 0, self.length(slot)) for slot in range(self.slots)]
        self._arrays, self._buffers, self.capacity = arrays, buffers, grown
        for slot, block in enumerate(kept):
            self.write(slot, 0, block)

    def _rounded(self, capacity: int) -> int:
        return min(self.shape.context_length, -(-capacity // _STEP) * _STEP)

    def _allocated(self, capacity: int) -> tuple[list[NDArray[Any]], list[Any]]:
        """Zeroed buffers, which cost no memory until they are written; and, on the CPU, the arrays that they are.

        Raises:
            InsufficientMemoryError: there is not so much memory.
        """
        check_cache(self.shape, capacity, self.slots, self.device)
        shape = (self.slots, self.shape.kv_heads, capacity, self.shape.head_dim)
        try:
            # key and value of layer 0, of layer 1, …
            arrays = [np.zeros(shape, self.shape.kv_dtype) for _ in range(2 * self.shape.layers)]
            buffers = [OrtValue.ortvalue_from_numpy(array, self.device, 0) for array in arrays]
        except (MemoryError, RuntimeError):
            size = 2 * self.shape.layers * np.dtype(self.shape.kv_dtype).itemsize * math.prod(shape)
            raise InsufficientMemoryError(
                f"no memory for the keys and values of {self.slots} × {capacity:,} tokens "
                f"({size / 2**20:,.0f} MiB): shorten the prompt or lower max_new_tokens"
            ) from None
        return (arrays if self.device == "cpu" else []), buffers

    def _host(self) -> list[NDArray[Any]]:
        """The buffers as arrays: themselves on the CPU, copies from other devices."""
        return self._arrays or [buffer.numpy() for buffer in self._buffers]

    def _store(self, arrays: list[NDArray[Any]]) -> None:
        if not self._arrays:
            for buffer, array in zip(self._buffers, arrays, strict=True):
                buffer.update_inplace(array)
