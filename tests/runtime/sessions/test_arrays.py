"""Arrays by address. Oracle: NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from pumice.sessions import arrays as device_memory
from pumice.sessions.arrays import DeviceMemory
from tests.bundle_files import graph_file
from tests.runtime.device_stand_in import needs_arrays_on_devices

pytestmark = needs_arrays_on_devices


@pytest.fixture(scope="module")
def memory(pebble_bundle: Path) -> DeviceMemory:
    session = onnxruntime.InferenceSession(
        graph_file(pebble_bundle, "embedding"), providers=["CPUExecutionProvider"]
    )
    return DeviceMemory(session, "cpu")


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64"])
def test_parts_are_read_and_written_in_place(memory: DeviceMemory, dtype: str) -> None:
    whole = np.arange(120).reshape(5, 4, 6).astype(dtype)
    array = memory.upload(whole)
    assert len(array) == 5
    assert array.numpy().dtype == dtype
    np.testing.assert_array_equal(array[1:3].numpy(), whole[1:3])
    np.testing.assert_array_equal(array[3:][1:].numpy(), whole[4:])
    np.testing.assert_array_equal(array.row(2).numpy(), whole[2])
    np.testing.assert_array_equal(array.part(7, (2, 3)).numpy(), whole.reshape(-1)[7:13].reshape(2, 3))
    array[1:2].write(-whole[1:2])
    array.part(0, (6,)).write(array.part(30, (6,)))
    whole[1] = -whole[1]
    whole.reshape(-1)[:6] = whole.reshape(-1)[30:36]
    np.testing.assert_array_equal(array.numpy(), whole)


def test_what_is_read_is_a_copy(memory: DeviceMemory) -> None:
    array = memory.upload(np.zeros(3, np.float32))
    before = array.numpy()
    array.write(np.ones(3, np.float32))
    assert before.sum() == 0


def test_parts_keep_the_memory_that_they_are_of(memory: DeviceMemory) -> None:
    part = memory.upload(np.full((1000, 1000), 7, np.float32))[500:]
    others = [memory.upload(np.zeros((1000, 1000), np.float32)) for _ in range(3)]
    assert (part.numpy() == 7).all()
    assert len(others) == 3


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 64, 100])
def test_zeros_of_any_size(memory: DeviceMemory, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "_SEED", 16)  # eight values of two bytes
    array = memory.zeros((size,), np.float16)
    array.write(np.full(size, 3, np.float16))
    again = memory.zeros((size,), np.float16)
    assert again.shape == (size,)
    assert not again.numpy().any()


def test_nothing_can_be_held_as_well(memory: DeviceMemory) -> None:
    none = memory.zeros((0, 8), np.float32)
    assert none.value.shape() == [0, 8]
    assert none.numpy().shape == (0, 8)
    assert memory.upload(np.ones((3, 8), np.float32))[3:].value.shape() == [0, 8]


def test_a_part_must_lie_within(memory: DeviceMemory) -> None:
    array = memory.zeros((4, 2), np.float32)
    with pytest.raises(AssertionError):
        array.part(7, (2,))
    with pytest.raises(AssertionError):
        array.write(np.zeros((2, 4), np.float32))
    with pytest.raises(AssertionError):
        array.write(np.zeros((4, 2), np.float64))
