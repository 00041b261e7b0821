"""What this machine's processor is, as far as weights and arithmetic depend on it.

Enters: /proc/cpuinfo, where there is one. Leaves: its description, and whether its integer products are exact.
"""

from __future__ import annotations

import contextlib
import platform
from functools import cache
from pathlib import Path

_TELLING = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part")
_EXACT = {"avx512_vnni", "avx_vnni", "amx_int8"}
_X86 = {"x86_64", "amd64", "i386", "i686"}


@cache
def description() -> tuple[str, ...]:
    """The processor's kind, and the instructions that it has: what decides how weights are packed."""
    told = [platform.system(), platform.machine()]
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n\n")[0].splitlines()
        told += sorted(line for line in lines if line.partition(":")[0].strip() in _TELLING)
    return tuple(told if len(told) > 2 else [*told, platform.processor()])


def saturates() -> bool:
    """Whether products of unsigned and signed bytes may be cut off at 16 bits on the way.

    Those of x86 without VNNI are; and none is known to have it where the system does not tell.
    """
    if platform.machine().lower() not in _X86:
        return False
    flags = {word for line in description() if line.startswith("flags") for word in line.split()}
    return not flags & _EXACT
