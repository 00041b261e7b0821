"""Zeros that take memory as they are written. Oracle: what Linux says is resident, and NumPy's own zeros."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pumice.machine.small_pages import sparse_zeros

MIB = 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="as Linux counts")
def test_what_is_written_here_and_there_takes_a_page_each() -> None:
    array = sparse_zeros((32, 4 * MIB), "uint8")
    array[:, 0] = 1
    assert 0 < resident(array) < MIB  # 64 MiB in huge pages
    assert array.sum() == 32


@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (2, 2 * MIB)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_they_are_zeros_to_write_to(shape: tuple[int, ...], dtype: str) -> None:
    array, expected = sparse_zeros(shape, dtype), np.zeros(shape, dtype)
    assert (array.dtype, array.shape, array.flags.c_contiguous) == (expected.dtype, shape, True)
    assert (array == expected).all()
    array[..., -1] = 2
    expected[..., -1] = 2
    assert (array == expected).all()


def test_other_systems_have_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr("mmap.mmap", lambda *_, **__: pytest.fail("mapped"))
    assert not sparse_zeros((2, 4 * MIB), "float32").any()


def test_too_much_is_no_memory() -> None:
    with pytest.raises(MemoryError):
        sparse_zeros((2**18, 2**40), "uint8")


def resident(array: NDArray[Any]) -> int:
    """Bytes in memory of the mappings over which an array lies."""
    inside, found = False, 0
    first, last = array.ctypes.data, array.ctypes.data + array.nbytes - 1
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        name, *rest = line.split()
        if "-" in name and not name.endswith(":"):
            start, stop = (int(part, 16) for part in name.split("-"))
            inside = start <= last and first < stop
        elif inside and name == "Rss:":
            found += int(rest[0]) * 1024
    return found
