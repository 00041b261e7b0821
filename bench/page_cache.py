"""Whether a model's files are in memory already when it is loaded: cold and warm starts.

Enters: folders. Leaves: their files read once, or dropped from the system's cache of files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_CHUNK = 1 << 24


def evict(folders: Iterable[Path]) -> bool:
    """Drop the folders' files from the cache, so that a load reads the disk; whether the system can."""
    advise = getattr(os, "posix_fadvise", None)
    if advise is None:
        return False
    for path in _files(folders):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not on disk yet cannot be dropped
            advise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def read(folders: Iterable[Path]) -> None:
    """Read the folders' files, so that a load finds them in memory."""
    buffer = bytearray(_CHUNK)
    for path in _files(folders):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        if folder.is_file():
            yield folder
        else:
            yield from sorted(path for path in folder.rglob("*") if path.is_file())
