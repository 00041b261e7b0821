"""Giving memory that was freed back to the system.

Enters: nothing. Leaves: fewer resident pages. glibc keeps what is freed for itself, a model's weights of hundreds of
MiB too: once a block of 32 MiB was freed, blocks up to that size are no longer mapped one by one. Elsewhere nothing
happens.
"""

from __future__ import annotations

import ctypes
import sys


def trim() -> None:
    """Let the system have free memory; some milliseconds for each GiB."""
    if sys.platform.startswith("linux"):
        trimming = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
        if trimming is not None:
            trimming(ctypes.c_size_t(0))
