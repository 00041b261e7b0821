"""Slots of keys and values: kept, copied, grown, refused. Oracle: what was written there; logits of whole prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import pumice
from pumice.decoder.kv_cache import KVCache
from pumice.decoder.step import DecodeStep
from pumice.errors import InsufficientMemoryError
from pumice.model import Model
from tests.runtime.test_generation import LOGIT_TOLERANCE, all_logits, read


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


def filled(model: Model, lengths: list[int], capacity: int = 100) -> KVCache:
    """A cache whose slots hold noise."""
    cache = model.pipeline.decoder.new_cache(capacity, slots=len(lengths))
    for slot, length in enumerate(lengths):
        cache.write(slot, 0, noise(cache, slot, length))
        cache.fill(slot, [100 * slot + i for i in range(length)])
    return cache


def noise(cache: KVCache, seed: int, length: int) -> NDArray[Any]:
    shape = (2 * cache.shape.layers, cache.shape.kv_heads, length, cache.shape.head_dim)
    return np.random.default_rng(seed).standard_normal(shape).astype(cache.shape.kv_dtype)


def test_slots_keep_what_they_hold_when_all_grow(model: Model) -> None:
    cache = filled(model, [100, 0, 37])
    cache.reserve(cache.capacity)
    assert cache.capacity == 128
    cache.reserve(129)
    assert cache.capacity == 320  # twice what was asked for, so that a chat does not grow at every turn
    for slot, length in enumerate([100, 0, 37]):
        assert cache.length(slot) == length
        assert (cache.read(slot, 0, length) == noise(cache, slot, length)).all()
    cache.reserve(10**9)
    assert cache.capacity == model.context_length


def test_a_copy_holds_what_its_source_holds_and_keeps_it(model: Model) -> None:
    cache = filled(model, [60, 80, 5])
    cache.copy(0, 1)
    cache.copy(2, 0)
    assert cache.contents[1] == list(range(60))
    assert (cache.read(1, 0, 60) == noise(cache, 0, 60)).all()
    assert (cache.read(0, 0, 5) == noise(cache, 2, 5)).all()
    cache.rewind(1, 3)
    assert cache.contents[1] == [0, 1, 2]
    assert cache.contents[0] == [200, 201, 202, 203, 204]


def test_only_what_differs_is_copied(model: Model) -> None:
    cache = filled(model, [50, 0])
    cache.copy(0, 1)
    cache.write(1, 0, noise(cache, 9, 10))  # keys say that it need not be touched
    for slot, token in ((0, 7), (1, 8)):
        cache.write(slot, 50, noise(cache, token, 1))
        cache.fill(slot, [token])
    cache.copy(0, 1)
    assert cache.contents[1] == cache.contents[0]
    assert (cache.read(1, 50, 51) == noise(cache, 7, 1)).all()
    assert (cache.read(1, 0, 10) == noise(cache, 9, 10)).all()


def test_a_full_slot_that_is_left_out_gives_up_one_position(model: Model) -> None:
    """The graph writes to every row: a row in use is never full, and what is free may lose its end."""
    decoder = model.pipeline.decoder
    cache = decoder.new_cache(64, slots=3)
    ids = [[int(i) for i in np.random.default_rng(s).integers(10, 400, 64)] for s in range(3)]
    for slot, length in enumerate((62, 64, 40)):
        read(decoder, ids[slot][:length], cache, slot)
    step = DecodeStep(decoder.sessions, decoder.shape, cache, range(3))
    step([ids[0][62], None, None])
    logits_RV = step([ids[0][63], None, ids[2][40]])
    assert [cache.length(slot) for slot in range(3)] == [64, 63, 41]
    assert np.abs(logits_RV[0] - all_logits(decoder, ids[0])[-1]).max() < LOGIT_TOLERANCE
    assert np.abs(logits_RV[2] - all_logits(decoder, ids[2][:41])[-1]).max() < LOGIT_TOLERANCE
    again_V = read(decoder, ids[1][63:], cache, 1)
    assert np.abs(again_V - all_logits(decoder, ids[1])[-1]).max() < LOGIT_TOLERANCE


def test_what_does_not_fit_is_refused_before_it_is_allocated(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = filled(model, [60, 10])
    each = 2 * cache.shape.layers * cache.shape.kv_heads * cache.shape.head_dim * 4
    monkeypatch.setattr("pumice.bundle.plan.available_memory", lambda device="cpu": each * 2 * 320)
    with monkeypatch.context() as patch:
        patch.setattr("pumice.decoder.kv_cache.np.zeros", lambda *_: pytest.fail("allocated"))
        with pytest.raises(
            InsufficientMemoryError, match=r"640 tokens × 2 slots need .* 320 tokens × 2 slots or"
        ):
            cache.reserve(640)
        with pytest.raises(InsufficientMemoryError, match="1,024 tokens × 8 slots"):
            model.pipeline.decoder.new_cache(1024, slots=8)
    assert cache.capacity == 128
    assert (cache.read(0, 0, 60) == noise(cache, 0, 60)).all()
    cache.reserve(300)  # twice as much would not fit
    assert cache.capacity == 320
    assert (cache.read(1, 0, 10) == noise(cache, 1, 10)).all()
