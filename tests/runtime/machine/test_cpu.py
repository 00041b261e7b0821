"""Which processors multiply bytes exactly, and how many of them a process may use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pumice.machine import cpu as processor
from pumice.machine.cpu import description, saturates


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    description.cache_clear()
    yield
    description.cache_clear()


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags : fpu avx2 avx512f avx512_vnni", False),
        ("AMD64", "flags : fpu avx2 avx_vnni", False),
        ("x86_64", "flags : fpu avx2 avx512f", True),
        ("x86_64", "model name : of an unknown kind", True),
        ("aarch64", "Features : asimd asimddp", False),
        ("arm64", "", False),
    ],
)
def test_products_of_bytes(machine: str, flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "description", lambda: ("Linux", machine, flags))
    assert saturates() is expected


def test_this_machine_is_described_alike_each_time() -> None:
    assert description() == description()
    assert len(description()) >= 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no CPU sets")
def test_the_cpu_set_counts() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from pumice.machine.cpu import usable_cpus; print(usable_cpus())"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"


@pytest.mark.parametrize(
    ("files", "membership", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, "0::/a/b\n", 0.5),
        ({"cpu.max": "300000 100000\n", "a/cpu.max": "200000 100000\n"}, "0::/a\n", 2.0),
        ({"cpu.max": "100000 100000\n"}, "0::/../outside\n", 1.0),
        ({"cpu/g/cpu.cfs_quota_us": "250000\n", "cpu/g/cpu.cfs_period_us": "100000\n"}, "4:cpu:/g\n", 2.5),
        (
            {"cpu,cpuacct/cpu.cfs_quota_us": "100000\n", "cpu,cpuacct/cpu.cfs_period_us": "50000\n"},
            "4:cpu,cpuacct:/docker/x\n",
            2.0,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/\n", None),
        ({"cpu.max": "rubbish"}, "0::/\nrubbish\n", None),
        ({}, "", None),
    ],
)
def test_control_groups_limit_the_cpus(
    files: dict[str, str], membership: str, expected: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    (tmp_path / "self").write_text(membership)
    assert processor._cgroup_quota(tmp_path / "self", tmp_path / "cgroup") == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert processor._cgroup_quota(tmp_path / "missing", tmp_path) is None
