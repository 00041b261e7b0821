import subprocess
import sys

import pytest

from pumice.export.weights import allocator

FAULTS = """
import resource, sys
from pumice.export.weights.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import numpy as np
def touch():
    for _ in range(200):
        parts = [np.ones(3 << 18) for _ in range(2)]  # 6 MiB each
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_that_is_filled_again_is_not_asked_for_again() -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") * 10 < max(faults("plain"), 1000)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_allocators_are_left_alone(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    allocator.keep_freed_memory()
