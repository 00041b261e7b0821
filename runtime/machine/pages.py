"""Giving back memory of files that are mapped and not needed for a while.

Enters: a file that this process maps, and where others of its owners map it. Leaves: fewer resident pages. The system
keeps a file's pages beside all processes as long as it has room, so that touching them again costs little; only this
process's share of them goes. Of use on Linux, where /proc says what is mapped; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

Range: TypeAlias = tuple[int, int]
"""Addresses: the first one, and the one behind the last."""

_DONT_NEED = 4
"""MADV_DONTNEED of Linux."""


def mapped(path: str) -> list[Range]:
    """Where a file is mapped."""
    return [found for found, _ in _mappings(path)]


def releasable(path: str, others: Sequence[Range] = ()) -> tuple[Range, ...]:
    """Where a file is mapped beside the addresses of `others`; none where this process changed a page, which would be
    lost.

    `others` are those that were mapped before whatever is to be released was opened. They may be unmapped at any time,
    and other memory, which must stay as it is, may come to lie there.
    """
    found = list(_mappings(path))
    if any(changed for _, changed in found):
        return ()
    ranges = [each for each, _ in found]
    for other in others:
        ranges = [part for each in ranges for part in _without(each, other)]
    return tuple(ranges)


def release(ranges: Sequence[Range]) -> None:
    """Let go of the resident pages of what is `releasable` and still mapped; a few milliseconds."""
    if not ranges:
        return
    library = ctypes.CDLL(None, use_errno=True)
    for start, stop in ranges:
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _DONT_NEED)


def _mappings(path: str) -> Iterator[tuple[Range, bool]]:
    """Addresses of a file's mappings, and whether pages of them were changed."""
    if not sys.platform.startswith("linux"):
        return
    name, found = path.replace("\n", "\\012"), None  # as the kernel writes line breaks
    try:
        with Path("/proc/self/smaps").open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                if line[:1] in "0123456789abcdef":
                    found = _addresses(line) if _path(line) == name else None
                elif found is not None and line.startswith("Anonymous:"):
                    yield found, line.split()[1] != "0"
    except OSError:
        return


def _without(whole: Range, part: Range) -> list[Range]:
    """What is left of `whole`: nothing, one range, or one on either side."""
    left, right = (whole[0], min(whole[1], part[0])), (max(whole[0], part[1]), whole[1])
    return [each for each in (left, right) if each[0] < each[1]] if part[0] < part[1] else [whole]


def _addresses(line: str) -> Range:
    start, _, stop = line.partition(" ")[0].partition("-")
    return int(start, 16), int(stop, 16)


def _path(line: str) -> str:
    """The file of a line of /proc/self/smaps."""
    fields = line.rstrip("\n").split(maxsplit=5)
    return fields[5] if len(fields) > 5 and fields[5].startswith(os.sep) else ""
