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

from pumice.bundle.footprint import rounded_up
from pumice.bundle.plan import check_cache
from pumice.decoder.kv_buffers import Buffers, DeviceBuffers, HostBuffers, Shape
from pumice.decoder.prefix_keys import Key, common_prefix
from pumice.errors import InsufficientMemoryError
from pumice.manifest import DecoderShape
from pumice.manifest.tensors import PAST, PRESENT
from pumice.sessions.arrays import DeviceMemory


class KVCache:
    """Keys and values of `slots` sequences, each with room for `capacity` positions.

    `keys[slot]` says what every filled position holds: a slot is filled as far as it has keys. On another device than
    the CPU the cache lies in its `memory`.
    """

    def __init__(
        self,
        shape: DecoderShape,
        capacity: int,
        device: str,
        slots: int = 1,
        memory: DeviceMemory | None = None,
    ) -> None:
        assert memory is not None or device == "cpu"
        self.shape, self.device, self.slots, self._memory = shape, device, slots, memory
        self.capacity = rounded_up(self.shape, capacity)
        self.contents: list[list[Key]] = [[] for _ in range(slots)]
        self._buffers = self._allocated(self.capacity)

    def length(self, slot: int) -> int:
        """Positions of a slot that are filled."""
        return len(self.contents[slot])

    def rewind(self, slot: int, length: int) -> None:
        """Forget a slot's positions from `length` on; the next tokens overwrite them."""
        del self.contents[slot][length:]

    def fill(self, slot: int, keys: Sequence[Key], new: NDArray[Any] | None = None) -> None:
        """Note what the decoder wrote behind a slot's filled positions, or write what it gave by itself: see `bind`."""
        if new is not None:
            self.write(slot, self.length(slot), new)
        self.contents[slot].extend(keys)

    def bind(self, binding: Any, first: int, count: int, tokens: int = 1) -> NDArray[Any] | None:
        """Bind `count` slots from `first` on as a batch, as past and as present, for a run of so many new tokens.

        Of several tokens in int8 a graph gives the new keys and values by themselves: their block, which is filled when
        it has been run, is the caller's to write. None where the graph writes in place.
        """
        shape = (count, self.shape.kv_heads, self.capacity, self.shape.head_dim)
        dtype = np.dtype(self.shape.kv_dtype)
        offset = first * math.prod(shape[1:]) * dtype.itemsize
        device = self._memory.device if self._memory else self.device
        new: NDArray[Any] | None = None
        if tokens > 1 and self.shape.kv_dtype == "int8":
            assert count == 1, f"{tokens} tokens for each of {count} slots"
            new = np.empty((2 * self.shape.layers, self.shape.kv_heads, tokens, self.shape.head_dim), dtype)
        for i, pointer in enumerate(self._buffers.pointers):
            tensor = f"{i // 2}.{'value' if i % 2 else 'key'}"
            place = (device, 0, dtype.type, shape, pointer + offset)
            binding.bind_input(f"{PAST}.{tensor}", *place)
            if new is None:
                binding.bind_output(f"{PRESENT}.{tensor}", *place)
            else:
                own = ("cpu", 0, dtype.type, (1, *new.shape[1:]), new[i].ctypes.data)
                binding.bind_output(f"{PRESENT}.{tensor}", *own)
        return new

    def read(self, slot: int, start: int, stop: int) -> NDArray[Any]:
        """A copy of a slot's positions `start` … `stop`-1, shape = (2·layers, kv_heads, stop-start, head_dim)."""
        return self._buffers.read(slot, start, stop)

    def write(self, slot: int, start: int, block: NDArray[Any]) -> None:
        """Put what `read` gave into a slot's positions from `start` on; its keys are the caller's to note."""
        self._buffers.write(slot, start, block)

    def copy(self, source: int, target: int) -> None:
        """Make one slot hold what another holds; what both begin with, as beams do, is not copied."""
        start = common_prefix(self.contents[source], self.contents[target])
        self._buffers.copy(source, target, start, self.length(source))
        self.contents[target] = list(self.contents[source])

    def reserve(self, capacity: int) -> None:
        """Make room for so many positions; keeps what is filled, by copying it once where the buffers must grow.

        Raises:
            InsufficientMemoryError: there is not so much memory; the cache is as it was.
        """
        if capacity <= self.capacity:
            return
        try:
            grown = rounded_up(self.shape, 2 * max(capacity, self.capacity))
            buffers = self._allocated(grown)
        except InsufficientMemoryError:
            grown = rounded_up(self.shape, capacity)
            buffers = self._allocated(grown)
        for slot in range(self.slots):
            buffers.take(self._buffers, slot, self.length(slot))
        self._buffers, self.capacity = buffers, grown

    def _allocated(self, capacity: int) -> Buffers:
        """Zeroed buffers, which on the CPU cost no memory until they are written.

        Raises:
            InsufficientMemoryError: there is not so much memory.
        """
        check_cache(self.shape, capacity, self.slots, self.device)
        # key and value of layer 0, of layer 1, …
        count, dtype = 2 * self.shape.layers, self.shape.kv_dtype
        shape: Shape = (self.slots, self.shape.kv_heads, capacity, self.shape.head_dim)
        try:
            if self._memory is not None:
                return DeviceBuffers(self._memory, count, shape, dtype)
            return HostBuffers(count, shape, dtype)
        except (MemoryError, RuntimeError):
            size = count * np.dtype(dtype).itemsize * math.prod(shape)
            raise InsufficientMemoryError(
                f"no memory for the keys and values of {self.slots} × {capacity:,} tokens "
                f"({size / 2**20:,.0f} MiB): shorten the prompt or lower max_new_tokens"
            ) from None
