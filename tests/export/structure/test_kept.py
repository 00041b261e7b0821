"""The cache of structures: whole and the user's own, or passed over; it never fails, and stays small."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from pathlib import Path

import pytest

from pumice.export.structure import kept
from pumice.export.structure.kept import Entry, find, keep

KEY, OTHER = "0" * 64, "f" * 64
ENTRY = Entry(key=KEY, model=b"graph" * 100, inputs=("input_ids", "image_features"), counts=(9, 7, 5))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Not there yet."""
    monkeypatch.setenv("PUMICE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path.resolve() / "cache" / "graphs"


@pytest.fixture
def file(folder: Path) -> Path:
    """Of the one entry that is kept."""
    keep(ENTRY)
    return folder / f"{KEY}.graph"


def named(number: int) -> Entry:
    return Entry(key=f"{number:064x}", model=b"0" * 1000, inputs=(), counts=(0, 0, 0))


def test_what_is_kept_is_found(folder: Path) -> None:
    assert find(KEY) is None
    assert not folder.exists()
    keep(ENTRY)
    assert find(KEY) == ENTRY
    assert find(OTHER) is None
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.graph"]


def test_it_is_closed_to_others_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        keep(ENTRY)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / f"{KEY}.graph").stat().st_mode) == 0o600


@pytest.mark.parametrize("cut", [0, 1, 31, 32, 33, 300])
def test_a_cut_file_is_passed_over_and_made_again(cut: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:cut])
    assert find(KEY) is None
    keep(ENTRY)
    assert find(KEY) == ENTRY


@pytest.mark.parametrize("at", [0, 31, 32, 100, -1])
def test_a_flipped_bit_is_noticed(at: int, file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)
    assert find(KEY) is None


def test_an_entry_under_another_name_is_passed_over(file: Path) -> None:
    file.rename(file.with_name(f"{OTHER}.graph"))
    assert find(OTHER) is None


def test_what_is_no_entry_is_passed_over(file: Path) -> None:
    for content in (b"", b"\x93\x01\x02\x03", b"\xc1"):
        file.write_bytes(hashlib.sha256(content).digest() + content)
        assert find(KEY) is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_what_others_may_write_is_passed_over(mode: int, file: Path) -> None:
    file.chmod(mode)
    assert find(KEY) is None


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777])
def test_a_folder_that_others_may_write_is_not_used(mode: int, file: Path) -> None:
    file.parent.chmod(mode)
    assert find(KEY) is None
    keep(named(1))
    assert list(file.parent.iterdir()) == [file]


def test_what_is_somebody_elses_is_not_used(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: uid)
    assert find(KEY) is None
    keep(named(1))
    assert list(file.parent.iterdir()) == [file]


def test_links_and_pipes_in_place_of_a_file_are_passed_over(file: Path, tmp_path: Path) -> None:
    moved = file.rename(tmp_path / "moved")
    file.symlink_to(moved)
    assert find(KEY) is None
    file.unlink()
    os.mkfifo(file, 0o600)
    assert find(KEY) is None
    file.unlink()
    file.mkdir()
    assert find(KEY) is None
    keep(ENTRY)  # which cannot take a folder's place
    assert list(file.parent.iterdir()) == [file]


def test_the_folder_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    keep(ENTRY)
    assert find(KEY) == ENTRY
    (tmp_path / "elsewhere").chmod(0o777)
    assert find(KEY) is None


def test_a_folder_that_cannot_be_made_is_no_error(folder: Path) -> None:
    folder.parent.write_bytes(b"")
    keep(ENTRY)
    assert find(KEY) is None


def test_a_write_that_fails_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    keep(ENTRY)
    assert list(folder.iterdir()) == []


def test_the_least_recently_used_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        keep(named(number))
    size = (folder / f"{named(0).key}.graph").stat().st_size
    monkeypatch.setattr(kept, "MOST_BYTES", 3 * size)
    for number, age in enumerate((300, 200, 100)):
        then = time.time() - age
        os.utime(folder / f"{named(number).key}.graph", (then, then))
    assert find(named(0).key) is not None  # now it is the most recently used
    keep(named(3))
    assert [find(named(number).key) is not None for number in range(4)] == [True, False, True, True]


def test_one_that_is_too_large_for_all_others_is_kept_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(named(0))
    monkeypatch.setattr(kept, "MOST_BYTES", 10)
    keep(named(1))
    assert [path.name for path in folder.iterdir()] == [f"{named(1).key}.graph"]


def test_nothing_else_in_the_folder_is_removed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = file.parent
    then = time.time() - 2 * kept.ABANDONED
    strange = [folder / name for name in ("notes.txt", f"{KEY}.graph.bak", ".tmp-mine")]
    under_way, abandoned = folder / f".tmp-{'1' * 16}", folder / f".tmp-{'2' * 16}"
    for path in (*strange, under_way, abandoned):
        path.write_bytes(b"0" * 5000)
    for path in (*strange, abandoned):
        os.utime(path, (then, then))
    (folder / f"{OTHER}.graph").mkdir()
    monkeypatch.setattr(kept, "MOST_BYTES", 10)
    keep(named(1))
    left = {folder / f"{named(1).key}.graph", folder / f"{OTHER}.graph", under_way, *strange}
    assert set(folder.iterdir()) == left
