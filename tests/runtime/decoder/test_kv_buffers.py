"""Buffers on a device do what buffers on the host do. Oracle: the latter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pumice.decoder.kv_buffers import DeviceBuffers, HostBuffers
from pumice.decoder.kv_cache import KVCache
from pumice.model import Model
from tests.runtime.device_stand_in import load_on_stand_in, needs_arrays_on_devices

pytestmark = needs_arrays_on_devices


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    return load_on_stand_in(pebble_bundle)


def both(model: Model, slots: int) -> tuple[KVCache, KVCache]:
    decoder = model.pipeline.decoder
    caches = KVCache(decoder.shape, 60, "cpu", slots), decoder.new_cache(60, slots)
    assert isinstance(caches[0]._buffers, HostBuffers)
    assert isinstance(caches[1]._buffers, DeviceBuffers)
    for cache in caches:
        for slot in range(slots):
            shape = (2 * cache.shape.layers, cache.shape.kv_heads, 40, cache.shape.head_dim)
            block = np.random.default_rng(slot).standard_normal(shape).astype(cache.shape.kv_dtype)
            cache.write(slot, 5, block)
            cache.contents[slot] = [slot, *range(44)]
    return caches


def assert_alike(one: KVCache, other: KVCache) -> None:
    assert one.contents == other.contents
    for slot in range(one.slots):
        length = one.length(slot)
        np.testing.assert_array_equal(one.read(slot, 0, length), other.read(slot, 0, length))


def test_a_new_cache_holds_zeros(model: Model) -> None:
    cache = model.pipeline.decoder.new_cache(60, 2)
    assert not cache.read(1, 0, 64).any()


def test_positions_go_where_they_are_written(model: Model) -> None:
    host, device = both(model, 3)
    assert_alike(host, device)
    np.testing.assert_array_equal(host.read(1, 7, 19), device.read(1, 7, 19))
    assert device.read(2, 9, 9).shape == host.read(2, 9, 9).shape


@pytest.mark.parametrize(("source", "target"), [(0, 2), (2, 1)])
def test_slots_are_copied(model: Model, source: int, target: int) -> None:
    caches = both(model, 3)
    for cache in caches:
        cache.copy(source, target)
        cache.rewind(0, 0)
        cache.copy(0, source)
    assert_alike(*caches)


def test_what_is_new_behind_a_common_beginning_is_copied(model: Model) -> None:
    caches = both(model, 2)
    for cache in caches:
        cache.copy(0, 1)
        cache.write(0, 45, np.ones_like(cache.read(0, 45, 47)))
        cache.fill(0, [100, 101])
        cache.copy(0, 1)
        assert (cache.read(1, 45, 47) == 1).all()
        cache.copy(1, 0)  # nothing is new
    assert_alike(*caches)


def test_slots_keep_what_they_hold_when_all_grow(model: Model) -> None:
    caches = both(model, 2)
    for cache in caches:
        cache.rewind(1, 10)
        cache.reserve(300)
    assert caches[1].capacity == caches[0].capacity >= 300
    assert_alike(*caches)
    assert not caches[1].read(0, 45, 300).any()
