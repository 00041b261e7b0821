"""Blocks of earlier prompts. Oracle: the prompts themselves; a position's values say which prefix they belong to."""

from __future__ import annotations

import hashlib
import itertools
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pumice.decoder.prefix_cache import BLOCK, PrefixCache
from pumice.decoder.prefix_keys import Key

LAYERS, HEADS, WIDTH = 2, 1, 2
BLOCK_BYTES = 2 * LAYERS * HEADS * BLOCK * WIDTH * 4


class Slots:
    """A cache whose values at a position are made from all keys up to it, as a decoder's are."""

    def __init__(self, slots: int = 1, capacity: int = 512) -> None:
        self.capacity, self.writes = capacity, 0
        self.contents: list[list[Key]] = [[] for _ in range(slots)]
        self.values = np.zeros((slots, 2 * LAYERS, HEADS, capacity, WIDTH), np.float32)

    def read(self, slot: int, start: int, stop: int) -> NDArray[Any]:
        return self.values[slot, :, :, start:stop].copy()

    def write(self, slot: int, start: int, block: NDArray[Any]) -> None:
        self.writes += 1
        self.values[slot, :, :, start : start + block.shape[2]] = block

    def fill(self, slot: int, keys: list[Key]) -> None:
        """Read the rest of a prompt."""
        for position in range(len(self.contents[slot]), len(keys)):
            self.values[slot, :, :, position] = value(keys[: position + 1])
        self.contents[slot] = list(keys)

    def check(self, slot: int) -> None:
        for position in range(len(self.contents[slot])):
            assert (self.values[slot, :, :, position] == value(self.contents[slot][: position + 1])).all()


def value(keys: list[Key]) -> float:
    return float(int.from_bytes(hashlib.sha256(repr(keys).encode()).digest()[:3]))


@st.composite
def prompts(draw: st.DrawFn) -> list[list[Key]]:
    """Prompts that share beginnings."""
    pieces = [[n] * draw(st.integers(1, 50)) for n in range(4)] + [[bytes([n]) * 32] * 40 for n in range(2)]
    chosen = st.lists(st.sampled_from(pieces), min_size=1, max_size=4)
    return [[key for piece in draw(chosen) for key in piece] for _ in range(draw(st.integers(1, 12)))]


@settings(max_examples=150)
@given(asked=prompts(), blocks=st.integers(0, 12))
def test_what_is_restored_is_what_would_be_read(asked: list[list[Key]], blocks: int) -> None:
    cache = PrefixCache(blocks * BLOCK_BYTES + 5)
    for keys in asked:
        slots = Slots()
        held = cache.restore(slots, 0, keys)
        assert held == len(slots.contents[0]) <= max(0, len(keys) - 1)
        assert slots.contents[0] == keys[:held]
        slots.check(0)
        slots.fill(0, keys)
        cache.save(slots, 0)
        found = cache.statistics
        assert found.bytes == found.blocks * BLOCK_BYTES <= blocks * BLOCK_BYTES
        whole = min(blocks, len(keys) // BLOCK)  # what was saved last is there, from its beginning on
        again = Slots()
        assert cache.restore(again, 0, [*keys, 99]) == whole * BLOCK


class Reference:
    """Prefixes, each with when it was used last; of one use the longest goes first."""

    def __init__(self, room: int) -> None:
        self.room, self.time = room, 0
        self.used: dict[tuple[Key, ...], tuple[int, int]] = {}

    def use(self, prefixes: list[tuple[Key, ...]]) -> None:
        self.time += 1
        self.used |= {prefix: (self.time, -len(prefix)) for prefix in prefixes}
        while len(self.used) > self.room:
            del self.used[min(self.used, key=self.used.__getitem__)]

    def restore(self, keys: list[Key]) -> int:
        found = []
        for prefix in prefixes(keys[:-1]):
            if prefix not in self.used:
                break
            found.append(prefix)
        self.use(found)
        return len(found) * BLOCK

    def save(self, keys: list[Key]) -> None:
        self.use(prefixes(keys)[: self.room])


def prefixes(keys: list[Key]) -> list[tuple[Key, ...]]:
    return [tuple(keys[:stop]) for stop in range(BLOCK, len(keys) + 1, BLOCK)]


@settings(max_examples=150)
@given(asked=prompts(), room=st.integers(0, 9), data=st.data())
def test_what_is_kept_is_what_was_used_last(asked: list[list[Key]], room: int, data: st.DataObject) -> None:
    cache, reference = PrefixCache(room * BLOCK_BYTES + BLOCK_BYTES - 1), Reference(room)
    for _ in range(data.draw(st.integers(1, 15))):
        keys, slots = data.draw(st.sampled_from(asked)), Slots()
        if data.draw(st.booleans()):
            held = data.draw(st.integers(0, len(keys) - 1))
            slots.fill(0, keys[:held])
            assert cache.restore(slots, 0, keys) == max(held, reference.restore(keys))
            slots.check(0)
            assert slots.writes <= 1
        else:
            slots.fill(0, keys)
            cache.save(slots, 0)
            reference.save(keys)
        assert cache.statistics.blocks == len(reference.used)
        assert cache.statistics.bytes == len(reference.used) * BLOCK_BYTES


def test_blocks_that_go_while_others_are_copied_leave_none_that_cannot_be_reached() -> None:
    """A prompt of five blocks is saved, two of which are there; before they are copied, others take their room."""
    cache = PrefixCache(5 * BLOCK_BYTES)
    keys: list[Key] = [1] * 160

    class Pushed(Slots):
        def read(self, slot: int, start: int, stop: int) -> NDArray[Any]:
            if stop - start > 1:
                other = Slots()
                other.fill(0, [2] * 128)
                cache.save(other, 0)  # of five, one remains
            return super().read(slot, start, stop)

    slots = Slots()
    slots.fill(0, keys[:64])
    cache.save(slots, 0)
    pushed = Pushed()
    pushed.fill(0, keys)
    cache.save(pushed, 0)
    found = cache.statistics
    reached = [cache.restore(Slots(), 0, [*chain, 9]) // BLOCK for chain in (keys, [2] * 160)]
    assert reached == [1, 4]
    assert found.blocks == sum(reached)
    assert found.bytes == 5 * BLOCK_BYTES


@pytest.mark.parametrize("capacity", [1, 31, 32, 63, 64, 100])
def test_no_more_is_restored_than_the_cache_has_room_for(capacity: int) -> None:
    cache, slots = PrefixCache(2**20), Slots()
    keys: list[Key] = list(range(200))
    slots.fill(0, keys)
    cache.save(slots, 0)
    small = Slots(capacity=capacity)
    assert cache.restore(small, 0, keys) == capacity // BLOCK * BLOCK
    small.check(0)


def test_prompts_of_no_and_one_token() -> None:
    cache = PrefixCache(2**20)
    for keys in ([], [1]):
        slots = Slots()
        assert cache.restore(slots, 0, keys) == 0
        cache.save(slots, 0)
    assert cache.statistics.blocks == 0


def test_what_the_slot_holds_is_left_alone() -> None:
    keys: list[Key] = list(range(200))
    cache, slots = PrefixCache(2**20), Slots(2)
    slots.fill(0, keys)
    cache.save(slots, 0)
    slots.fill(1, keys[:70])
    slots.values[1, ..., :70, :] += 0.5  # its own reading, rounded in another way
    assert cache.restore(slots, 1, keys) == 192
    assert (slots.values[1, ..., 69, :] == value(keys[:70]) + 0.5).all()
    assert (slots.values[1, ..., 70:192, :] == slots.values[0, ..., 70:192, :]).all()
    assert cache.statistics.positions == 192 - 70


def test_the_ends_of_prompts_go_before_their_beginnings() -> None:
    cache, slots = PrefixCache(4 * BLOCK_BYTES), Slots(3)
    prompts: list[list[Key]] = [[1] * 64 + [2] * 64, [3] * 64]
    for slot, keys in enumerate(prompts):
        slots.fill(slot, keys)
        cache.save(slots, slot)
    assert cache.restore(Slots(), 0, [*prompts[0], 9]) == 64
    assert cache.restore(Slots(), 0, [*prompts[1], 9]) == 64
    slots.fill(2, [4] * 64)  # what was used longest ago goes: the first prompt's rest
    cache.save(slots, 2)
    assert cache.restore(Slots(), 0, [*prompts[0], 9]) == 0
    assert cache.restore(Slots(), 0, [*prompts[1], 9]) == 64


def test_the_last_token_is_left_to_be_read() -> None:
    cache, slots = PrefixCache(2**20), Slots()
    slots.fill(0, [1] * 64)
    cache.save(slots, 0)
    assert cache.restore(Slots(), 0, [1] * 64) == 32
    assert all(block.base is None for block in cache._blocks.values())  # nothing larger is kept for a block


def test_an_id_is_no_digest() -> None:
    digest = bytes(32)
    cache, slots = PrefixCache(2**20), Slots()
    slots.fill(0, [digest] * 64)
    cache.save(slots, 0)
    assert cache.restore(Slots(), 0, [0] * 65) == 0
    assert cache.restore(Slots(), 0, [b"\1" * 32] * 65) == 0
    assert cache.restore(Slots(), 0, [digest] * 65) == 64


@pytest.mark.parametrize("size", [0, BLOCK_BYTES - 1])
def test_no_room_keeps_nothing(size: int) -> None:
    cache, slots = PrefixCache(size), Slots()
    slots.fill(0, [1] * 64)
    cache.save(slots, 0)
    assert cache.statistics.bytes == 0
    assert cache.restore(Slots(), 0, [1] * 65) == 0


def test_threads() -> None:
    cache = PrefixCache(20 * BLOCK_BYTES)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        dice = np.random.default_rng(seed)
        try:
            for _ in range(60):
                slots, keys = Slots(), [int(n) for n in dice.integers(0, 3, 4).repeat(40)]
                cache.restore(slots, 0, keys)
                slots.check(0)
                slots.fill(0, keys)
                cache.save(slots, 0)
                assert cache.statistics.bytes <= 20 * BLOCK_BYTES
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    found = cache.statistics
    assert found.bytes == found.blocks * BLOCK_BYTES
    reached = set()  # no block is there without the one before it
    for pieces in itertools.product(range(3), repeat=4):
        keys: list[Key] = [n for n in pieces for _ in range(40)]
        held = cache.restore(Slots(), 0, [*keys, 9])
        reached.update(prefixes(keys[:held]))
    assert len(reached) == found.blocks


def test_no_more_is_copied_than_there_is_room_for() -> None:
    longest = 0

    class Counted(Slots):
        def read(self, slot: int, start: int, stop: int) -> NDArray[Any]:
            nonlocal longest
            longest = max(longest, stop - start)
            return super().read(slot, start, stop)

    prefixes = PrefixCache(3 * BLOCK_BYTES)
    slots = Counted()
    slots.fill(0, [7] * (10 * BLOCK))
    prefixes.save(slots, 0)
    assert prefixes.statistics.blocks == 3
    assert longest == 3 * BLOCK
