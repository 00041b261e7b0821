"""Features of images in a folder, from one process to the next.

Enters: digests and features. Leaves: files, one for each image, and the features in them.

    <digest in hexadecimal>.features    magic line │ SHA-256 of digest and rest │ tokens, D as int64 │ float32 values

A file that is damaged, or not of this kind, counts as missing. Several processes, of several machines too, may use a
folder at once: files are written under a name that nobody else has, and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

logger = logging.getLogger("pumice")

_MAGIC = b"pumice features 1\n"
_HEAD = len(_MAGIC) + 32
_SHAPE = 16

_LEFT = 3600
"""Seconds after which a file that is still being written is taken for one that a killed process left."""

_LOOKS = 16
"""All files are looked at whenever this part of `max_bytes` was written, for others write as well."""


class FeatureFolder:
    """At most about `max_bytes` of files, those used longest ago being removed first. For all threads.

    Each process that writes at the same time may add a sixteenth before it looks what the others wrote.
    Where the folder cannot be written to, that is told of once, and no more is written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._bytes: int | None = None
        """What was there at the last look, and what this process wrote since."""
        self._written = 0
        """Bytes that this process wrote since."""
        self._writable = True
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> Floats | None:
        """Features float32 [tokens, D], or None."""
        path = self._path(digest)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > self._max_bytes:
                return None  # a pipe would never end, and a file may be larger than memory
            data = path.read_bytes()
        except OSError:
            return None
        features = _decoded(digest, data)
        if features is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
        return features

    def put(self, digest: bytes, features: Floats) -> None:
        """Keep features."""
        with self._lock:
            if not self._writable:
                return
            try:
                self._write(digest, features)
                self._tidy()
            except OSError as error:
                self._writable = False
                logger.warning("features are not kept in %s: %s", self._folder, error.strerror)

    def _path(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}.features"

    def _write(self, digest: bytes, features: Floats) -> None:
        data = _encoded(digest, features)
        path = self._path(digest)
        temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        self._written += len(data)
        if self._bytes is not None:
            self._bytes += len(data)

    def _tidy(self) -> None:
        """Look at all files at first, from time to time, and where they have become too large together."""
        fits = self._bytes is not None and self._bytes <= self._max_bytes
        if fits and self._written <= self._max_bytes // _LOOKS:
            return
        self._written = 0
        self._remove_left()
        files = []
        for file in self._folder.glob("*.features"):
            with contextlib.suppress(OSError):  # another process may have removed it
                status = file.stat()
                files.append((status.st_mtime_ns, status.st_size, file))
        self._bytes = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if self._bytes <= self._max_bytes:
                return
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
            self._bytes -= size

    def _remove_left(self) -> None:
        for file in self._folder.glob(".*.features.*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > _LEFT:
                    file.unlink(missing_ok=True)


def _encoded(digest: bytes, features: Floats) -> bytes:
    body = np.array(features.shape, "<i8").tobytes() + features.astype("<f4").tobytes()
    return _MAGIC + hashlib.sha256(digest + body).digest() + body


def _decoded(digest: bytes, data: bytes) -> Floats | None:
    body = data[_HEAD:]
    whole = data.startswith(_MAGIC) and hashlib.sha256(digest + body).digest() == data[len(_MAGIC) : _HEAD]
    if not whole or len(body) < _SHAPE:
        return None
    tokens, width = (int(size) for size in np.frombuffer(body, "<i8", 2))
    if min(tokens, width) < 1 or len(body) != _SHAPE + 4 * tokens * width:
        return None
    features = np.frombuffer(body, "<f4", offset=_SHAPE).reshape(tokens, width).astype(np.float32)
    features.flags.writeable = False
    return features
