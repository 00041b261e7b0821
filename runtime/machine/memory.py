"""How much memory this process may still use.

Enters: what the system tells of itself. Leaves: bytes, or None where it does not tell.
"""

from __future__ import annotations

import os
from pathlib import Path

from pumice.machine.cgroups import MEMBERSHIP, ROOT, control_groups

MEMINFO = Path("/proc/meminfo")

_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Of a control group: the files of its limit and its use, and what memory.stat calls cached files that can go."""


def available_memory(device: str = "cpu") -> int | None:
    """Bytes that this process may still use on `device`; None where that is unknown, as on CUDA.

    On Linux what the kernel expects to be free without swapping, or less where a control group leaves less. macOS tells
    only how much memory the machine has: more than that can never be had. Windows: unknown.
    """
    if device != "cpu":
        return None
    found = [_meminfo(MEMINFO), _control_group(MEMBERSHIP, ROOT)]
    known = [size for size in found if size is not None]
    return min(known) if known else _machine()


def _meminfo(path: Path) -> int | None:
    """`MemAvailable:  24117248 kB`."""
    try:
        lines = path.read_text().splitlines()
        words = next(line.split() for line in lines if line.startswith("MemAvailable:"))
        return int(words[1]) * 1024
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _control_group(membership: Path, root: Path) -> int | None:
    """What the tightest control group leaves; None without a limit."""
    groups = control_groups("memory", membership, root)
    left = [_left(folder, *(_V2 if version == 2 else _V1)) for version, folder in groups]
    return min((size for size in left if size is not None), default=None)


def _left(group: Path, limit: str, use: str, cached: str) -> int | None:
    """Limit less use, where files that are only cached do not count as used; `max` is no limit."""
    try:
        allowed, used = int((group / limit).read_text()), int((group / use).read_text())
    except (OSError, ValueError):
        return None
    return max(0, allowed - max(0, used - _stat(group / "memory.stat", cached)))


def _stat(path: Path, name: str) -> int:
    """A line `name bytes`; 0 if it is not there."""
    try:
        return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[0] == name)
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


def _machine() -> int | None:
    """All memory of the machine."""
    if not hasattr(os, "sysconf"):
        return None
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    return page * pages if page > 0 and pages > 0 else None
