"""The C library's memory, told to stay with a process that is going to fill it again.

Enters, leaves: nothing; where the allocator is not glibc's, nothing is changed either. Weights are made in arrays of
some megabytes, thousands of times. By its own measure glibc gives each back to the system and asks for it again, which
clears it: a tenth of an export's time.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT = 32 << 20
"""Bytes that a thread may keep; larger arrays come from the system as before, and go back to it."""


def keep_freed_memory() -> None:
    """For processes of our own: it holds until they end."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return
    for threshold in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        mallopt(ctypes.c_int(threshold), ctypes.c_int(_KEPT))
