"""The decoder's keys and values of all positions so far, in buffers that the decoder reads and writes in place.

Each buffer is [1, kv_heads, capacity, head_dim] and is bound as past and as present at once, so that a token adds
its own row and nothing is copied:

    position   0 … length-1   length … capacity-1
               filled         not yet (memory that the system has not even given, on the CPU)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
        nothing = np.zeros((1, shape.kv_heads, 0, shape.head_dim), shape.kv_dtype)
        layers = range(2 * shape.layers)  # key and value of layer 0, of layer 1, …
        self.buffers = [self._filled(nothing, self.capacity) for _ in layers]

    def reserve(self, capacity: int) -> None:
        """Make room for so many positions; keeps what is filled, by copying it once where the buffers must grow."""
        if capacity <= self.capacity:
            return
        grown = self._rounded(max(capacity, 2 * self.capacity))
        self.buffers = [self._filled(buffer.numpy()[:, :, : self.length], grown) for buffer in self.buffers]
        self.capacity = grown

    def rewind(self, length: int) -> None:
        """Forget all positions from `length` on; the next tokens overwrite them."""
        self.length = min(self.length, length)

    def _rounded(self, capacity: int) -> int:
        return min(self._shape.context_length, -(-capacity // _STEP) * _STEP)

    def _filled(self, kept: NDArray[Any], capacity: int) -> Any:
        """A buffer that begins with `kept` [1, kv_heads, length, head_dim]; zeros cost no memory until written."""
        shape = (1, self._shape.kv_heads, capacity, self._shape.head_dim)
        try:
            array = np.zeros(shape, self._shape.kv_dtype)
            array[:, :, : kept.shape[2]] = kept
            return OrtValue.ortvalue_from_numpy(array, self._device, 0)
        except (MemoryError, RuntimeError):
            size = 2 * self._shape.layers * np.dtype(self._shape.kv_dtype).itemsize * math.prod(shape)
            raise GenerationError(
                f"no memory for the keys and values of {capacity:,} tokens ({size / 2**20:,.0f} MiB): "
                "shorten the prompt or lower max_new_tokens"
            ) from None
