"""Prefix cache: KV blocks of earlier prompts, found by hash, so that later prompts skip their prefill.

Enters: what a cache's slot holds when a request ends. Leaves: the same positions, in a slot of another request that
begins alike.

Positions are kept in blocks. A block's name is a hash of all keys up to its end, so that equal names mean equal prompts
up to there, images included, and prompts that begin alike share their first blocks:

    "You are kind. <image> What is this?"     block 1 ─ block 2 ─ block 3
    "You are kind. <image> How many are …"                      └ block 4
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pumice.decoder.prefix_keys import Key, common_prefix

BLOCK = 32
"""Positions of a block."""


class Cache(Protocol):
    """What is needed of a `KVCache`."""

    contents: list[list[Key]]
    capacity: int

    def read(self, slot: int, start: int, stop: int) -> NDArray[Any]:
        """A copy of positions, shape = (2·layers, kv_heads, stop − start, head_dim)."""
        ...

    def write(self, slot: int, start: int, block: NDArray[Any]) -> None:
        """Put them back, from `start` on."""
        ...


@dataclass(frozen=True, kw_only=True)
class PrefixStatistics:
    """`bytes` kept now, in `blocks`; `positions` restored so far."""

    bytes: int
    blocks: int
    positions: int


class PrefixCache:
    """Blocks of at most `max_bytes` together; 0 keeps nothing. For all threads.

    What was used last goes last, and of a prompt the end goes before the beginning, without which it is of no use.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._blocks: OrderedDict[bytes, NDArray[Any]] = OrderedDict()
        self._bytes = self._restored = 0
        self._block_bytes: int | None = None
        self._lock = threading.Lock()

    @property
    def statistics(self) -> PrefixStatistics:
        """A snapshot."""
        with self._lock:
            return PrefixStatistics(bytes=self._bytes, blocks=len(self._blocks), positions=self._restored)

    def restore(self, cache: Cache, slot: int, keys: Sequence[Key]) -> int:
        """Write what is kept of a prompt behind what the slot holds of it; returns the positions that it holds then.

        The last token is left to prefill, for its logits are needed; and no more is written than the cache has room
        for.
        """
        held = len(cache.contents[slot])
        if self._max_bytes == 0:
            return held
        assert common_prefix(cache.contents[slot], keys) == held
        blocks = self._found(keys[: min(max(0, len(keys) - 1), cache.capacity)])
        stop = len(blocks) * BLOCK
        if stop <= held:
            return held
        # one write: on other devices than the CPU each of them moves the whole cache
        positions = np.concatenate(blocks[held // BLOCK :], axis=2)[:, :, held % BLOCK :]
        cache.write(slot, held, positions)
        cache.contents[slot].extend(keys[held:stop])
        with self._lock:
            self._restored += stop - held
        return stop

    def save(self, cache: Cache, slot: int) -> None:
        """Keep the slot's positions, as many of its first blocks as there is room for."""
        if self._max_bytes == 0 or len(cache.contents[slot]) < BLOCK:
            return
        if self._block_bytes is None:
            self._block_bytes = cache.read(slot, 0, 1).nbytes * BLOCK
        fitting = self._max_bytes // self._block_bytes
        names = list(_names(cache.contents[slot][: fitting * BLOCK]))  # more are not even copied
        with self._lock:
            first = self._leading(names)
        blocks = {}
        if first < len(names):  # not read under the lock: others need not wait for it
            positions = cache.read(slot, first * BLOCK, len(names) * BLOCK)
            for i, name in enumerate(names[first:]):
                blocks[name] = positions[:, :, i * BLOCK : (i + 1) * BLOCK].copy()
        with self._lock:
            self._keep(names, blocks)

    def _found(self, keys: Sequence[Key]) -> list[NDArray[Any]]:
        """The blocks of a prompt's beginning, in order."""
        names = list(_names(keys))
        with self._lock:
            found = names[: self._leading(names)]
            self._touch(found)
            return [self._blocks[name] for name in found]

    def _leading(self, names: Sequence[bytes]) -> int:
        """How many blocks of a prompt are there from its beginning on. The others are missing: no block outlives the
        one before it. With the lock held, as all below."""
        return next((i for i, name in enumerate(names) if name not in self._blocks), len(names))

    def _keep(self, names: Sequence[bytes], blocks: Mapping[bytes, NDArray[Any]]) -> None:
        """Add a prompt's missing blocks, up to one that another thread let go while `blocks` were copied.

        The prompt's own are the last to go, and `names` are no more than fit: so none of them makes room for another.
        """
        self._touch(names[: self._leading(names)])
        kept = 0
        for name in names:
            if name not in self._blocks:
                block = blocks.get(name)
                if block is None:
                    break
                while self._bytes + block.nbytes > self._max_bytes:
                    self._bytes -= self._blocks.popitem(last=False)[1].nbytes
                self._blocks[name] = block
                self._bytes += block.nbytes
            kept += 1
        self._touch(names[:kept])

    def _touch(self, names: Sequence[bytes]) -> None:
        """Note that a prompt's blocks were used: its first one last, so that it goes last."""
        for name in reversed(names):
            self._blocks.move_to_end(name)


def _names(keys: Sequence[Key]) -> Iterator[bytes]:
    """The names of a sequence's whole blocks: SHA-256 of the name before and of the block's keys."""
    name = b""
    for start in range(0, len(keys) - BLOCK + 1, BLOCK):
        parts = [_tagged(key) for key in keys[start : start + BLOCK]]
        name = hashlib.sha256(name + b"".join(parts)).digest()
        yield name


def _tagged(key: Key) -> bytes:
    """A key's bytes, so that no id looks like a digest."""
    return b"t" + key.to_bytes(8, "little") if isinstance(key, int) else b"p" + key
