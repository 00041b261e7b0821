"""The latest images' features in a device's memory, so that they need not come from the host again.

Enters: features as the vision encoder leaves them. Leaves: those of a prompt, one behind another.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pumice.sessions.arrays import DeviceArray, DeviceMemory

MOST = 16
"""Images; of a 7B model 150 MiB."""


class ResidentFeatures:
    """Features [tokens, D] by digest; for all threads."""

    def __init__(self, memory: DeviceMemory) -> None:
        self.memory = memory
        self._known: dict[bytes, DeviceArray] = {}
        self._lock = threading.Lock()

    def put(self, digest: bytes, features_TD: DeviceArray) -> None:
        """Keep an image's features; the one that was asked for least lately is forgotten."""
        with self._lock:
            self._known.pop(digest, None)
            self._known[digest] = features_TD
            while len(self._known) > MOST:
                del self._known[next(iter(self._known))]

    def rows(
        self, images: Mapping[bytes, NDArray[np.float32]], order: list[bytes], width: int
    ) -> DeviceArray:
        """The features of `order`'s images, one behind another, float32 [M, D]; from the host if not known."""
        parts = [self._found(digest, images[digest]) for digest in order]
        if len(parts) == 1:
            return parts[0]
        joined = self.memory.empty((sum(len(part) for part in parts), width), np.float32)
        start = 0
        for part in parts:
            joined[start : start + len(part)].write(part)
            start += len(part)
        return joined

    def _found(self, digest: bytes, features_TD: NDArray[np.float32]) -> DeviceArray:
        with self._lock:
            found = self._known.get(digest)
        if found is None or found.shape != features_TD.shape:
            found = self.memory.upload(np.ascontiguousarray(features_TD))
        self.put(digest, found)
        return found
