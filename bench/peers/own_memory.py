"""What the process that measures takes of memory, on Linux.

Enters: nothing. Leaves: MiB, under the names of the measures.
"""

from __future__ import annotations

from pathlib import Path


def memory_mb() -> dict[str, float]:
    """MiB of this process: resident, of it private, and the highest so far."""
    status = _kib(Path("/proc/self/status"))
    return {
        "resident_mb": status["VmRSS"] / 1024,
        "private_mb": _kib(Path("/proc/self/smaps_rollup"))["Private_Dirty"] / 1024,
        "peak_mb": status["VmHWM"] / 1024,
    }


def _kib(path: Path) -> dict[str, int]:
    """Lines `Name:  123 kB` of a file of the kernel's."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}
