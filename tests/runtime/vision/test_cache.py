"""Features of earlier images, in memory and in a folder. Oracle: what was put in."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pumice.vision.cache import FeatureCache
from pumice.vision.folder import FeatureFolder

SIZE = 3 * 4 * 4
FILE = 18 + 32 + 16 + SIZE


def features(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(number).standard_normal((3, 4)).astype(np.float32)


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_memory_is_bounded_and_what_was_used_longest_ago_goes() -> None:
    cache = FeatureCache(3 * SIZE)
    for number in range(3):
        cache.put(digest(number), features(number))
    assert cache.get(digest(0)) is not None
    cache.put(digest(3), features(3))
    assert [cache.get(digest(n)) is not None for n in range(4)] == [True, False, True, True]
    cache.put(digest(9), np.zeros((100, 4), np.float32))  # too large for itself: nothing goes for it
    assert cache.get(digest(9)) is None
    assert cache.get(digest(3)) is not None


def test_no_room_keeps_nothing() -> None:
    cache = FeatureCache(0)
    cache.put(digest(0), features(0))
    assert cache.get(digest(0)) is None


def test_nobody_can_change_what_is_kept(tmp_path: Path) -> None:
    cache = FeatureCache(2**20, FeatureFolder(tmp_path, 2**20))
    given = features(1)
    cache.put(digest(1), given)
    given[:] = 7
    found = cache.get(digest(1))
    assert found is not None
    assert np.array_equal(found, features(1))
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 7


def test_a_folder_serves_the_next_process(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "features"
    FeatureCache(0, FeatureFolder(folder, 2**20)).put(digest(1), features(1))
    assert len(list(folder.iterdir())) == 1
    found = FeatureCache(2**20, FeatureFolder(folder, 2**20)).get(digest(1))
    assert found is not None
    assert found.dtype == np.float32
    assert np.array_equal(found, features(1))
    assert not found.flags.writeable


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:40],
        lambda data: b"\x80\x04K\x01." + data,
        lambda data: data[:-4] + b"\0\0\0\0",
        lambda data: data[:50] + (10**12).to_bytes(8, "little") + data[58:],
    ],
)
def test_damaged_files_count_as_missing_and_are_written_anew(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    folder = FeatureFolder(tmp_path, 2**20)
    folder.put(digest(1), features(1))
    (file,) = tmp_path.iterdir()
    assert len(file.read_bytes()) == FILE
    file.write_bytes(damage(file.read_bytes()))
    assert folder.get(digest(1)) is None
    folder.put(digest(1), features(1))
    assert folder.get(digest(1)) is not None


@pytest.mark.parametrize("shape", [(-3, -4), (0, 12), (12, 0), (2**62, 4), (-(2**63), 0), (12, 2)])
def test_files_whose_sizes_are_not_those_of_their_values_count_as_missing(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    body = np.array(shape, "<i8").tobytes() + bytes(SIZE)  # with a checksum that is right
    data = b"pumice features 1\n" + hashlib.sha256(digest(1) + body).digest() + body
    (tmp_path / f"{digest(1).hex()}.features").write_bytes(data)
    assert FeatureFolder(tmp_path, 2**20).get(digest(1)) is None


@pytest.mark.parametrize("kind", ["pipe", "folder", "huge"])
def test_what_is_no_file_or_too_large_to_be_ours_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{digest(1).hex()}.features"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(2**40)  # no blocks of the disk
    folder = FeatureFolder(tmp_path, 2**30)
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(folder.get(digest(1))), daemon=True)
    reader.start()
    reader.join(10)
    assert found == [None]


def test_a_full_disk_is_told_of_once_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FeatureCache(2**20, FeatureFolder(tmp_path, 2**20))
    cache.put(digest(0), features(0))
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    for number in range(1, 4):
        cache.put(digest(number), features(number))
    assert [record.message for record in caplog.records] == [
        f"features are not kept in {tmp_path}: No space left on device"
    ]
    assert [file.name for file in tmp_path.iterdir()] == [f"{digest(0).hex()}.features"]
    assert cache.get(digest(3)) is not None  # from memory
    assert FeatureFolder(tmp_path, 2**20).get(digest(0)) is not None


def test_a_file_that_cannot_be_touched_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureFolder(tmp_path, 2**20).put(digest(1), features(1))

    def refused(*_: object) -> None:
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refused)
    assert FeatureFolder(tmp_path, 2**20).get(digest(1)) is not None


def test_another_images_file_is_not_taken(tmp_path: Path) -> None:
    folder = FeatureFolder(tmp_path, 2**20)
    folder.put(digest(1), features(1))
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / f"{digest(2).hex()}.features")
    assert folder.get(digest(2)) is None


def test_a_folder_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("stays")
    for number in range(6):
        FeatureFolder(tmp_path, 2**20).put(digest(number), features(number))
        os.utime(tmp_path / f"{digest(number).hex()}.features", ns=(10**9 - number, 10**9 - number))
    FeatureFolder(tmp_path, 3 * FILE).put(digest(9), features(9))
    folder = FeatureFolder(tmp_path, 3 * FILE)
    assert [folder.get(digest(n)) is not None for n in range(6)] == [True] * 2 + [False] * 4
    assert (tmp_path / "other.txt").exists()


def test_a_folder_that_several_write_to_is_bounded(tmp_path: Path) -> None:
    folders = [FeatureFolder(tmp_path, 32 * FILE) for _ in range(4)]
    for number in range(200):
        folders[number % 4].put(digest(number), features(number))
        assert len(list(tmp_path.iterdir())) <= 32 + 4 * 3
    assert folders[0].get(digest(199)) is not None


def test_not_every_file_written_is_a_look_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    glob, looks = Path.glob, []

    def counted(path: Path, pattern: str) -> Iterator[Path]:
        looks.append(pattern)
        return glob(path, pattern)

    monkeypatch.setattr(Path, "glob", counted)
    folder = FeatureFolder(tmp_path, 160 * FILE)
    for number in range(100):
        folder.put(digest(number), features(number))
    assert looks.count("*.features") == 1 + 9  # at first, and after every 11 files


def test_two_that_write_the_same_file_at_once_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replace, names = Path.replace, []

    def late(path: Path, target: Path) -> Path:
        names.append(path.name)
        if len(names) == 1:  # between the first one's writing and renaming comes the second one
            FeatureFolder(tmp_path, 2**20).put(digest(1), features(1))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", late)
    FeatureFolder(tmp_path, 2**20).put(digest(1), features(1))
    assert len(set(names)) == 2
    assert not caplog.records
    assert [file.name for file in tmp_path.iterdir()] == [f"{digest(1).hex()}.features"]


def test_what_a_killed_process_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    left, writing, other = (
        tmp_path / name for name in (".0a.features.1.tmp", ".0b.features.2.tmp", ".other.tmp")
    )
    for file in (left, writing, other):
        file.write_bytes(b"half")
    for file in (left, other):
        os.utime(file, (10**9, 10**9))
    FeatureFolder(tmp_path, 2**20).put(digest(1), features(1))
    assert not left.exists()
    assert writing.exists()
    assert other.exists()


def test_a_folder_that_cannot_be_written_to_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = FeatureCache(2**20, FeatureFolder(tmp_path / "file" / "folder", 2**20))
    with caplog.at_level(logging.WARNING, logger="pumice"):
        for number in range(3):
            cache.put(digest(number), features(number))
    assert [record.message for record in caplog.records] == [
        f"features are not kept in {tmp_path / 'file' / 'folder'}: Not a directory"
    ]
    assert cache.get(digest(2)) is not None


def test_threads(tmp_path: Path) -> None:
    cache = FeatureCache(5 * SIZE, FeatureFolder(tmp_path, 8 * FILE))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        dice = random.Random(seed)
        try:
            for _ in range(200):
                number = dice.randrange(12)
                found = cache.get(digest(number))
                if found is None:
                    cache.put(digest(number), features(number))
                else:
                    assert np.array_equal(found, features(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not list(tmp_path.glob(".*"))
    assert len(list(tmp_path.iterdir())) <= 8


WORKER = """
import random, sys
from pathlib import Path
import numpy as np
from pumice.vision.folder import FeatureFolder

folder, dice = FeatureFolder(Path(sys.argv[1]), int(sys.argv[2])), random.Random(int(sys.argv[3]))
for _ in range(300):
    number = dice.randrange(12)
    found = folder.get(number.to_bytes(32, "big"))
    if found is None:
        folder.put(number.to_bytes(32, "big"), np.full((3, 4), number, np.float32))
    else:
        assert (found == number).all()
assert folder._writable
"""


def test_processes(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(8 * FILE), str(seed)])
        for seed in range(3)
    ]
    assert [worker.wait(600) for worker in workers] == [0] * 3
    assert not list(tmp_path.glob(".*"))
    assert len(list(tmp_path.iterdir())) <= 8 + 3
