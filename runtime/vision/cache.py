"""Features of earlier images, which need not be encoded again.

Enters: digests and features. Leaves: the features of equal images, from memory or from a folder.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from pumice.vision.folder import FeatureFolder

Floats = NDArray[np.float32]


class FeatureCache:
    """Features of at most `max_bytes` in memory, those used longest ago being forgotten first; and a folder, if given.

    For all threads. Features are shared, so that nobody can write to them.
    """

    def __init__(self, max_bytes: int, folder: FeatureFolder | None = None) -> None:
        self._max_bytes, self._folder = max_bytes, folder
        self._features: OrderedDict[bytes, Floats] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> Floats | None:
        """Features float32 [tokens, D] of the image with this digest, or None."""
        with self._lock:
            features = self._features.get(digest)
            if features is not None:
                self._features.move_to_end(digest)
                return features
        features = None if self._folder is None else self._folder.get(digest)
        if features is not None:
            self._remember(digest, features)
        return features

    def put(self, digest: bytes, features: Floats) -> None:
        """Keep an image's features; of an array that may be written to, a copy."""
        if features.flags.writeable:
            features = features.copy()
            features.flags.writeable = False
        self._remember(digest, features)
        if self._folder is not None:
            self._folder.put(digest, features)

    def _remember(self, digest: bytes, features: Floats) -> None:
        if features.nbytes > self._max_bytes:
            return
        with self._lock:
            earlier = self._features.pop(digest, None)
            self._bytes += features.nbytes - (0 if earlier is None else earlier.nbytes)
            self._features[digest] = features
            while self._bytes > self._max_bytes:
                self._bytes -= self._features.popitem(last=False)[1].nbytes
