"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from pumice.machine.heap import trim

_MIB = 2**20


def resident_bytes() -> int:
    """Of this process, without files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon:"))) * 1024


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="of glibc"
)
def test_blocks_that_lie_below_others_go_back() -> None:
    blocks = [bytes([i % 256]) * (64 * 1024) for i in range(1600)]  # too small to be mapped one by one
    before = resident_bytes()
    del blocks[:-1]  # the last one lies on top of them
    trim()
    assert before - resident_bytes() > 80 * _MIB
    assert blocks[0][0] == 1599 % 256


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    trim()
