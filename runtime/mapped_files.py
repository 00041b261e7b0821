"""Giving back memory of files that are mapped and not needed for a while.

Enters: paths of files that this process has mapped. Leaves: fewer resident pages. The system keeps a file's pages
beside all processes as long as it has room, so that touching them again costs little; only this process's share of them
goes. Of use on Linux, where /proc says what is mapped; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

_DONT_NEED = 4
"""MADV_DONTNEED of Linux."""


def releasable(paths: Collection[str]) -> frozenset[str]:
    """Those of the files of whose mappings this process has changed nothing: a changed page would be lost."""
    if not sys.platform.startswith("linux"):
        return frozenset()
    mapped: set[str] = set()
    changed: set[str] = set()
    name = ""
    try:
        with Path("/proc/self/smaps").open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                if line[:1].isdigit() or line[:1] in "abcdef":
                    name = _path(line)
                    mapped.add(name)
                elif line.startswith("Anonymous:") and line.split()[1] != "0":
                    changed.add(name)
    except OSError:
        return frozenset()
    return frozenset(paths) & mapped - changed


def release(paths: Collection[str]) -> None:
    """Let go of the resident pages of files that are `releasable`; a few milliseconds."""
    if not paths:
        return
    library = ctypes.CDLL(None, use_errno=True)
    for start, stop in list(_ranges(paths)):
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _DONT_NEED)


def _ranges(paths: Collection[str]) -> Iterator[tuple[int, int]]:
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if _path(line) in paths:
                start, _, stop = line.partition(" ")[0].partition("-")
                yield int(start, 16), int(stop, 16)


def _path(line: str) -> str:
    """The file of a line of /proc/self/maps; the kernel writes line breaks in names as \\012."""
    fields = line.rstrip("\n").split(maxsplit=5)
    return fields[5] if len(fields) > 5 and fields[5].startswith(os.sep) else ""
