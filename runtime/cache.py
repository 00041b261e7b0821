"""The decoder's keys and values of all positions so far, in buffers that the decoder reads and writes in place.

Each buffer is [1, kv_heads, capacity, head_dim] and is bound as past and as present at once, so that a token adds
its own row and nothing is copied:

    position   0 … length-1   length … capacity-1
               filled         not yet (memory that the system has not even given, on the CPU)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnxruntime import OrtValue

from pumice.errors import GenerationError
from pumice.manifest import DecoderShape

_STEP = 64
"""Capacities are multiples of this many positions."""


class KVCache:
    """Keys and values of one sequence. `length` positions are filled; `capacity` have room."""

    def __init__(self, shape: DecoderShape, capacity: int, device: str) -> None:
        self._shape = shape
        self._device = device
        self.length = 0
        self.capacity = self._rounded(capacity)
        self.buffers = self._allocate(self.capacity)

    def reserve(self, capacity: int) -> None:
        """Make room for so many positions; keeps what is filled, by copying it once where the buffers must grow."""
        if capacity <= self.capacity:
            return
        self.capacity = self._rounded(max(capacity, 2 * self.capacity))
        kept = [buffer.numpy()[:, :, : self.length] for buffer in self.buffers]
        self.buffers = self._allocate(self.capacity)
        for buffer, filled in zip(self.buffers, kept, strict=True):
            whole = (
                np.zeros(self._buffer_shape(self.capacity), filled.dtype)
                if self._device != "cpu"
                else buffer.numpy()
            )
            whole[:, :, : self.length] = filled
            if self._device != "cpu":
                buffer.update_inplace(whole)

    def rewind(self, length: int) -> None:
        """Forget all positions from `length` on; the next tokens overwrite them."""
        self.length = min(self.length, length)

    def _rounded(self, capacity: int) -> int:
        return min(self._shape.context_length, -(-capacity // _STEP) * _STEP)

    def _buffer_shape(self, capacity: int) -> tuple[int, int, int, int]:
        return (1, self._shape.kv_heads, capacity, self._shape.head_dim)

    def _allocate(self, capacity: int) -> list[Any]:
        """Key and value of layer 0, of layer 1, …; zeros cost no memory until they are written."""
        count, shape = 2 * self._shape.layers, self._buffer_shape(capacity)
        try:
            arrays = [np.zeros(shape, self._shape.kv_dtype) for _ in range(count)]
            return [OrtValue.ortvalue_from_numpy(array, self._device, 0) for array in arrays]
        except (MemoryError, RuntimeError):
            size = count * np.dtype(self._shape.kv_dtype).itemsize * int(np.prod(shape))
            raise GenerationError(
                f"no memory for the keys and values of {capacity:,} tokens ({size / 2**20:,.0f} MiB): "
                "shorten the prompt or lower max_new_tokens"
            ) from None
