"""The machine that measures: its CPU, its memory, its system. Leaves: `Machine`, without its name."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from bench.results import Machine

_TELLING = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)
"""Flags of /proc/cpuinfo that say how matrices are multiplied."""


def cores() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """All memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def this_machine() -> Machine:
    """As the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    told: dict[str, str] = {}
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())  # of the first CPU
    flags = (told.get("flags") or told.get("Features") or "").split()
    return Machine(
        cpu=told.get("model name") or platform.processor() or platform.machine(),
        cores=cores(),
        memory_gib=round(memory_bytes() / 2**30, 1),
        flags=tuple(flag for flag in _TELLING if flag in flags),
        system=f"{platform.system()} {platform.machine()}",
    )
