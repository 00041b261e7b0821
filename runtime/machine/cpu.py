"""What this machine's processor is, as far as weights and arithmetic depend on it.

Enters: /proc/cpuinfo, where there is one. Leaves: its description, and whether its integer products are exact.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
from functools import cache
from pathlib import Path

from pumice.machine.cgroups import MEMBERSHIP, ROOT, control_groups

_TELLING = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part")
_EXACT = {"avx512_vnni", "avx_vnni", "amx_int8"}
_X86 = {"x86_64", "amd64", "i386", "i686"}


@cache
def description() -> tuple[str, ...]:
    """The processor's kind, and the instructions that it has: what decides how weights are packed."""
    parts = [platform.system(), platform.machine()]
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n\n")[0].splitlines()
        parts += sorted(line for line in lines if line.partition(":")[0].strip() in _TELLING)
    return tuple(parts if len(parts) > 2 else [*parts, platform.processor()])


def saturates() -> bool:
    """Whether products of unsigned and signed bytes may be cut off at 16 bits on the way.

    Those of x86 without VNNI are; and none is known to have it where the system does not tell.
    """
    if platform.machine().lower() not in _X86:
        return False
    flags = {word for line in description() if line.startswith("flags") for word in line.split()}
    return not flags & _EXACT


def usable_cpus() -> int:
    """CPUs of the process's CPU set, or fewer where its control group has a smaller quota of time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(MEMBERSHIP, ROOT)
    return max(1, min(allowed, math.ceil(quota)) if quota is not None else allowed)


def _cgroup_quota(membership: Path, root: Path) -> float | None:
    """CPUs' worth of time that control groups (version 2, or 1) grant; None without a limit."""
    quotas = [
        _quota(folder / "cpu.max")
        if version == 2
        else _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        for version, folder in control_groups("cpu", membership, root)
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(*files: Path) -> float | None:
    """`quota period` in microseconds, from one file or two; `max` and -1 mean no limit."""
    try:
        words = " ".join(file.read_text() for file in files).split()
        quota, period = float(words[0]), float(words[1])
    except (OSError, ValueError, IndexError):
        return None
    return quota / period if quota > 0 and period > 0 else None
