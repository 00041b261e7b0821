"""Memory of mapped files: given back where nothing is lost by it."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pumice.mapped_files import releasable, release

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
SIZE = 64 * mmap.PAGESIZE


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[tuple[str, mmap.mmap]]:
    path = tmp_path / "with a space\nand a line.onnx_data"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as data,
    ):
        assert sum(data[::256]) == 0  # touched
        yield str(path), data


def resident(path: str) -> int:
    """KiB of the mapping that are in memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[:1] in "0123456789abcdef":
            inside = line.endswith(path.replace("\n", "\\012"))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def test_pages_go_and_come_again(mapped: tuple[str, mmap.mmap]) -> None:
    path, data = mapped
    name = path.replace("\n", "\\012")
    assert releasable([name]) == {name}
    assert resident(path) == SIZE // 1024
    release([name])
    assert resident(path) == 0
    assert data[:256] == bytes(range(256))


def test_files_with_changed_pages_are_not_touched(mapped: tuple[str, mmap.mmap]) -> None:
    path, data = mapped
    data[5000] = 7
    assert releasable([path.replace("\n", "\\012")]) == set()


def test_others_are_not_mapped(tmp_path: Path) -> None:
    assert releasable([str(tmp_path / "missing")]) == set()
    release([])
    release([str(tmp_path / "missing")])
