"""Large arrays that take memory only as far as they are written.

Enters: a shape. Leaves: zeros. NumPy asks Linux for huge pages where an array has 4 MiB or more, and Linux gives and
zeroes 2 MiB for the first number that is written anywhere in them. In an array that is written here and there, as a KV
cache is, those are gigabytes for the first few tokens.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ASKED = 2**22
"""Bytes from which NumPy asks for huge pages."""


def sparse_zeros(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Zeros that on Linux are given in the system's smallest pages, as they are written.

    Raises:
        MemoryError: there is no such room in the address space.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _ASKED or not sys.platform.startswith("linux"):
        return np.zeros(shape, dtype)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from None
    with contextlib.suppress(OSError):  # a system that has no huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
