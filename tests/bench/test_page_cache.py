from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import page_cache


def test_every_file_is_dropped_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    for name in ("model/a", "model/deep/b", "alone"):
        (tmp_path / name).write_bytes(b"weights")
    dropped: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *_: dropped.append(file), raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_DONTNEED", 4, raising=False)
    folders = [tmp_path / "model", tmp_path / "alone"]
    assert page_cache.evict(folders)
    assert len(dropped) == 3
    page_cache.read(folders)
    assert (tmp_path / "model" / "deep" / "b").read_bytes() == b"weights"


def test_systems_that_cannot_drop_files_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert not page_cache.evict([tmp_path])
