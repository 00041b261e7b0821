import os
import sys
from pathlib import Path

import pytest

from pumice.machine import memory
from pumice.machine.memory import available_memory

MIB = 2**20


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up system: /proc/meminfo is `meminfo`, control groups are under `cgroup`, `self` says which."""
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "self")
    monkeypatch.setattr(memory, "ROOT", tmp_path / "cgroup")
    return tmp_path


@pytest.mark.parametrize(
    ("files", "membership", "expected"),
    [
        ({}, "", 1000),
        ({"memory.max": "max\n", "memory.current": "5\n"}, "0::/\n", 1000),
        ({"memory.max": f"{300 * MIB}\n", "memory.current": f"{100 * MIB}\n"}, "0::/\n", 200),
        (
            {
                "memory.max": f"{300 * MIB}\n",
                "memory.current": f"{100 * MIB}\n",
                "memory.stat": f"active_file 7\ninactive_file {60 * MIB}\n",
            },
            "0::/\n",
            260,
        ),
        (
            {
                "a/memory.max": f"{300 * MIB}",
                "a/memory.current": f"{250 * MIB}",
                "a/b/memory.max": f"{200 * MIB}",
                "a/b/memory.current": f"{10 * MIB}",
            },
            "0::/a/b\n",
            50,
        ),
        ({"memory.max": f"{3 * MIB}", "memory.current": f"{9 * MIB}"}, "0::/\n", 0),
        (
            {
                "memory/g/memory.limit_in_bytes": f"{400 * MIB}\n",
                "memory/g/memory.usage_in_bytes": f"{150 * MIB}\n",
                "memory/g/memory.stat": f"inactive_file 3\ntotal_inactive_file {50 * MIB}\n",
            },
            "7:memory:/g\n3:cpu:/other\n",
            300,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": "4096\n",
            },
            "7:memory:/\n",
            1000,
        ),
        ({"memory.max": "rubbish", "memory.current": "1"}, "0::/\nrubbish\n", 1000),
    ],
)
def test_the_kernels_word_bounded_by_control_groups(
    files: dict[str, str], membership: str, expected: int, system: Path
) -> None:
    write(system, {"meminfo": f"MemFree:  1 kB\nMemAvailable:  {1000 * 1024} kB\n", "self": membership})
    write(system / "cgroup", files)
    assert available_memory() == expected * MIB


def test_a_control_group_alone(system: Path) -> None:
    write(system, {"self": "0::/\n", "cgroup/memory.max": "500", "cgroup/memory.current": "100"})
    assert available_memory() == 400


@pytest.mark.parametrize("text", ["", "MemAvailable:\n", "MemAvailable: much kB\n"])
def test_otherwise_the_machines_memory(text: str, system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(system, {"meminfo": text})
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__, raising=False)
    assert available_memory() == 4096 * 1000


def test_unknown_is_none(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_memory("cuda") is None
    monkeypatch.setattr(os, "sysconf", lambda name: -1, raising=False)
    assert available_memory() is None
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert available_memory() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_this_machine_tells() -> None:
    size = available_memory()
    assert size is not None
    assert MIB < size <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
