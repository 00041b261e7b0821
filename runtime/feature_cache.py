"""Features of earlier pictures, which need not be encoded again.

Enters: digests and features. Leaves: the features of equal pictures, from memory or from a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

logger = logging.getLogger("pumice")

_MAGIC = b"pumice features 1\n"


class FeatureCache:
    """Features of at most `max_bytes` in memory; and, with a folder, as many files as `max_folder_bytes` allows.

    For all threads, and the folder for all processes. A file that is damaged counts as missing; a folder that cannot be
    written to is told of once.
    """

    def __init__(
        self, max_bytes: int, folder: Path | None = None, *, max_folder_bytes: int = 4 * 2**30
    ) -> None:
        self._max_bytes, self._max_folder_bytes = max_bytes, max_folder_bytes
        self._folder = folder
        self._features: OrderedDict[bytes, Floats] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> Floats | None:
        """Features float32 [tokens, D] of the picture with this digest, or None."""
        with self._lock:
            features = self._features.get(digest)
            if features is not None:
                self._features.move_to_end(digest)
                return features
        features = self._read(digest)
        if features is not None:
            self._remember(digest, features)
        return features

    def put(self, digest: bytes, features: Floats) -> None:
        """Keep a picture's features."""
        self._remember(digest, features)
        self._write(digest, features)

    def _remember(self, digest: bytes, features: Floats) -> None:
        if features.nbytes > self._max_bytes:
            return
        with self._lock:
            if digest not in self._features:
                self._features[digest] = features
                self._bytes += features.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._features.popitem(last=False)[1].nbytes

    def _path(self, digest: bytes) -> Path:
        assert self._folder is not None
        return self._folder / f"{digest.hex()}.features"

    def _read(self, digest: bytes) -> Floats | None:
        """A file's features: a line of magic, the SHA-256 of all behind it, two sizes, and the values."""
        if self._folder is None:
            return None
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        start = len(_MAGIC) + 32
        if (
            not data.startswith(_MAGIC)
            or hashlib.sha256(digest + data[start:]).digest() != data[len(_MAGIC) : start]
        ):
            return None
        tokens, width = np.frombuffer(data, "<i8", 2, start)
        values = np.frombuffer(data, "<f4", offset=start + 16)
        if tokens * width != values.size:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the files used last go last
        return values.reshape(tokens, width).astype(np.float32)

    def _write(self, digest: bytes, features: Floats) -> None:
        if self._folder is None:
            return
        body = np.array(features.shape, "<i8").tobytes() + features.astype("<f4").tobytes()
        path = self._path(digest)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(_MAGIC + hashlib.sha256(digest + body).digest() + body)
            temporary.replace(path)
            self._tidy()
        except OSError as error:
            temporary.unlink(missing_ok=True)
            logger.warning("features are not kept in %s: %s", self._folder, error.strerror)
            self._folder = None

    def _tidy(self) -> None:
        """Remove the files used longest ago, where all are too large together."""
        assert self._folder is not None
        files = sorted(
            (file.stat().st_mtime, file.stat().st_size, file) for file in self._folder.glob("*.features")
        )
        total = sum(size for _, size, _ in files)
        for _, size, file in files:
            if total <= self._max_folder_bytes:
                break
            file.unlink(missing_ok=True)
            total -= size
