"""What this process holds of memory.

Enters: what the system tells of itself. Leaves: bytes by name; those that it does not tell are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

STATUS, ROLLUP = Path("/proc/self/status"), Path("/proc/self/smaps_rollup")

_NAMES = {
    "resident memory": (STATUS, "VmRSS"),
    "of it private": (ROLLUP, "Private_Dirty"),
    "most resident memory": (STATUS, "VmHWM"),
}


def process_memory() -> dict[str, int]:
    """Resident now, of it what no file could give back, and the most that was resident; Linux tells all three."""
    sizes = {name: _kilobytes(path, field) for name, (path, field) in _NAMES.items()}
    known = {name: 1024 * size for name, size in sizes.items() if size is not None}
    return known or _most()


def _kilobytes(path: Path, field: str) -> int | None:
    """`VmRSS:	  123456 kB`."""
    try:
        lines = path.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _most() -> dict[str, int]:
    try:
        import resource  # not on Windows
    except ImportError:
        return {}
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"most resident memory": size if sys.platform == "darwin" else 1024 * size}
