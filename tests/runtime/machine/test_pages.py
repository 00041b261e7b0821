"""Memory of mapped files: given back where nothing is lost by it."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pumice.machine import pages as mapped_files
from pumice.machine.pages import Range, mapped, releasable, release

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
SIZE = 64 * mmap.PAGESIZE


@pytest.fixture
def mapping(tmp_path: Path) -> Iterator[tuple[str, mmap.mmap]]:
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


def test_pages_go_and_come_again(mapping: tuple[str, mmap.mmap]) -> None:
    path, data = mapping
    (found,) = releasable(path)
    assert [found] == mapped(path)
    assert found[1] - found[0] == SIZE
    assert resident(path) == SIZE // 1024
    release([found])
    assert resident(path) == 0
    assert data[:256] == bytes(range(256))


def test_files_with_changed_pages_are_not_touched(mapping: tuple[str, mmap.mmap]) -> None:
    path, data = mapping
    data[5000] = 7
    assert releasable(path) == ()
    assert mapped(path) != []


def test_what_others_mapped_is_left_to_them(mapping: tuple[str, mmap.mmap]) -> None:
    """The system may show two mappings side by side as one."""
    path, _ = mapping
    before = mapped(path)
    with (
        Path(path).open("rb") as file,
        mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mine,
    ):
        assert sum(mine[::256]) == 0
        found = releasable(path, before)
        assert sum(stop - start for start, stop in found) == SIZE
        release(found)
        assert resident(path) == SIZE // 1024
    assert releasable(path, mapped(path)) == ()


@pytest.mark.parametrize(
    ("other", "left"),
    [
        ((0, 10), ((10, 20), (30, 40))),
        ((12, 15), ((10, 12), (15, 20), (30, 40))),
        ((15, 35), ((10, 15), (35, 40))),
        ((5, 50), ()),
        ((20, 30), ((10, 20), (30, 40))),
    ],
)
def test_addresses_are_cut_out(
    other: Range, left: tuple[Range, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_files, "_mappings", lambda _: iter([((10, 20), False), ((30, 40), False)]))
    assert releasable("any", [other]) == left


def test_what_is_not_mapped(tmp_path: Path) -> None:
    assert releasable(str(tmp_path / "missing")) == ()
    release([])
