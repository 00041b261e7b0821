"""The user's cache of structures: files that are found again by their key, whole and the user's own, or not at all.

    $PUMICE_CACHE_DIR, or $XDG_CACHE_HOME/pumice, or ~/.cache/pumice
      graphs/<key>.graph        SHA-256 of what follows, and that in MessagePack: the key, the graph, how it was made

Enters: a key, bytes. Leaves: the same bytes at a later time. Nothing here fails: what is damaged, somebody else's, or
open to others is passed over, and what cannot be written is not kept. A file is written beside its place and renamed.
The least recently used go once all have more than `MOST_BYTES`; of what else lies in the folder nothing is touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from pumice.machine.cache_folder import cache_folder
from pumice.manifest.regular_file import read_regular

MOST_BYTES = 64 << 20
"""Of all structures together; the decoder of 24 layers has 0.1 MB."""
ABANDONED = 3600
"""Seconds after which a half-written file is taken for one that a killed process left."""
_NAME = re.compile(r"[0-9a-f]{64}\.graph")
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{16}")
_DIGEST_BYTES = 32


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True):
    """A structure as it is kept: an ONNX graph, the callers' inputs, and its nodes before and after each pass."""

    key: str
    model: bytes
    inputs: tuple[str, ...]
    counts: tuple[int, int, int]


def find(key: str) -> Entry | None:
    """What was kept under a key; None where nothing sound is."""
    with contextlib.suppress(OSError, RuntimeError, msgspec.DecodeError):
        folder = _folder()
        path = folder / f"{key}.graph"
        if not _closed(folder.lstat(), stat.S_ISDIR) or not _closed(path.lstat(), stat.S_ISREG):
            return None
        data = read_regular(path, MOST_BYTES)
        digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            return None
        entry = msgspec.msgpack.decode(content, type=Entry)
        if entry.key == key:
            with contextlib.suppress(OSError):
                os.utime(path)
            return entry
    return None


def keep(entry: Entry) -> None:
    """Write it, and make room for it."""
    content = msgspec.msgpack.encode(entry)
    with contextlib.suppress(OSError, RuntimeError):
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _closed(folder.lstat(), stat.S_ISDIR):
            path = folder / f"{entry.key}.graph"
            _write(path, hashlib.sha256(content).digest() + content)
            _make_room(folder, path.name)


def _folder() -> Path:
    """It may be a link; where that leads has to be closed to others."""
    return cache_folder("graphs").resolve()


def _closed(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Of the right kind, the user's own, and nobody else may write it."""
    own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return is_kind(status.st_mode) and own and not status.st_mode & 0o022


def _write(path: Path, data: bytes) -> None:
    """Not synced: after a power cut the digest tells."""
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _make_room(folder: Path, newest: str) -> None:
    """Remove what was not used for longest, but for the newest, and what killed processes left."""
    kept: list[tuple[float, int, Path]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # another process may have removed it
                if not entry.is_file(follow_symlinks=False):
                    continue
                status = entry.stat(follow_symlinks=False)
                if _NAME.fullmatch(entry.name) and entry.name != newest:
                    kept.append((status.st_mtime, status.st_size, Path(entry.path)))
                elif _TEMPORARY.fullmatch(entry.name) and time.time() - status.st_mtime > ABANDONED:
                    Path(entry.path).unlink()
    room = MOST_BYTES - (folder / newest).stat().st_size
    for _, size, path in sorted(kept, reverse=True):
        room -= size
        if room < 0:
            with contextlib.suppress(OSError):
                path.unlink()
