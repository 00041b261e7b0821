"""Images become features: each distinct one is run through the vision encoder once.

Enters: images as `preprocess.py` makes them. Leaves: their features, float32 [tokens, D], and digests by which equal
images are known.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pumice.bundle.footprint import ENCODED_AT_ONCE
from pumice.errors import GenerationError
from pumice.images.layout import join, kept
from pumice.images.prepared import ImageFeatures, PreparedImage, PromptImage, layout_as_given, model_key
from pumice.machine.pages import release
from pumice.manifest import Manifest
from pumice.manifest.tensors import IMAGE_FEATURES, PIXEL_VALUES
from pumice.sessions.arrays import DeviceArray, DeviceMemory, Rows
from pumice.sessions.later import Later
from pumice.sessions.opening import Opened
from pumice.sessions.runs import Cancellation, RunCancelledError
from pumice.vision.cache import FeatureCache
from pumice.vision.resident import ResidentFeatures

Floats = NDArray[np.float32]

_PATIENCE = 0.05
"""Seconds after which a thread that waits for another's image looks whether it was cancelled."""


class ImageEncoder:
    """The vision encoder behind a cache of features; for all threads, of which one encodes what several ask for."""

    def __init__(
        self,
        vision: Later[Opened],
        manifest: Manifest,
        cache: FeatureCache,
        resident: ResidentFeatures | None = None,
    ) -> None:
        """The first image waits for the session; memory of its mapped weights is given back when images are encoded."""
        self._vision, self._cache, self._resident = vision, cache, resident
        self.width = manifest.decoder.hidden_size
        self._manifest = manifest
        self._batch = ENCODED_AT_ONCE if manifest.layout.stackable else 1
        self.model = model_key(manifest)
        self._under_way: dict[bytes, Future[Floats | None]] = {}
        """What some thread encodes; None comes of it if that thread failed or was cancelled."""
        self._lock = threading.Lock()

    def encode(
        self, images: Sequence[PromptImage], cancellation: Cancellation, first: int = 0
    ) -> list[ImageFeatures]:
        """Features of images, in their order; what is encoded already, or equal to another, is not encoded again.

        Errors name an image by its number, of which the first one has `first`.

        Raises:
            GenerationError: features that are not finite, or a failure in ONNX Runtime.
            BundleError: ONNX Runtime refuses the vision encoder.
            RunCancelledError: the run was ended.
        """
        known = {p.digest: p.features for p in images if isinstance(p, ImageFeatures)}
        numbers = {p.digest: first + i for i, p in reversed([*enumerate(images)])}
        while missing := self._missing(images, known):
            mine: dict[bytes, Future[Floats | None]] = {}
            try:  # Ctrl-C may come at any place, and what is claimed must not stay so
                self._claim(missing, mine)
                claimed = [missing[digest] for digest in mine]
                unread = list(self._missing(claimed, known).values())  # another thread may have been quicker
                if unread:
                    self._wait(cancellation)
                for start in range(0, len(unread), self._batch):
                    known |= self._run(unread[start : start + self._batch], numbers, cancellation)
                if unread:
                    release(self._opened().released)
            finally:
                self._release(mine)
            for digest in missing.keys() - mine.keys():
                features = self._awaited(digest, cancellation)
                if features is not None:
                    known[digest] = features
        return [
            ImageFeatures(
                features=known[p.digest],
                size=p.size,
                digest=p.digest,
                model=self.model,
                alone=p.alone,
                beside=p.beside,
                frames=p.frames,
            )
            for p in images
        ]

    def wait(self) -> None:
        """Return when images can be encoded without further waiting. Raises BundleError as `encode`."""
        self._vision.result()

    def settle(self) -> None:
        """Return when no thread opens the session any more, whatever came of it."""
        self._vision.settle()

    def _wait(self, cancellation: Cancellation) -> None:
        if self._vision.result(lambda: cancellation.is_set) is None:
            raise RunCancelledError

    def _opened(self) -> Opened:
        opened = self._vision.result()
        assert opened is not None
        return opened

    def _missing(
        self, images: Sequence[PromptImage], known: dict[bytes, Floats]
    ) -> dict[bytes, PreparedImage]:
        """The distinct images that are neither known nor cached; `known` takes up those that are cached."""
        missing: dict[bytes, PreparedImage] = {}
        for image in images:
            if isinstance(image, PreparedImage) and image.digest not in known and image.digest not in missing:
                features = self._cache.get(image.digest)
                if features is not None and features.shape == (image.tokens, self.width):
                    known[image.digest] = features
                else:
                    missing[image.digest] = image
        return missing

    def _claim(
        self, missing: Mapping[bytes, PreparedImage], mine: dict[bytes, Future[Floats | None]]
    ) -> None:
        """Note in `mine` what no other thread encodes; from now on this one does."""
        with self._lock:
            for digest in missing:  # in the prompt's order, on which batches and so their rounding depend
                if digest not in self._under_way:
                    mine[digest] = Future()
                    self._under_way[digest] = mine[digest]

    def _release(self, mine: Mapping[bytes, Future[Floats | None]]) -> None:
        """Let others have what failed."""
        with self._lock:
            for digest, future in mine.items():
                if self._under_way.get(digest) is future:
                    del self._under_way[digest]
        for future in mine.values():
            if not future.done():
                future.set_result(None)

    def _awaited(self, digest: bytes, cancellation: Cancellation) -> Floats | None:
        """What another thread encodes; None if it does not, or failed."""
        with self._lock:
            future = self._under_way.get(digest)
        while future is not None:
            if cancellation.is_set:
                raise RunCancelledError
            with contextlib.suppress(TimeoutError):
                return future.result(_PATIENCE)
        return None

    def _run(
        self, images: Sequence[PreparedImage], numbers: Mapping[bytes, int], cancellation: Cancellation
    ) -> dict[bytes, Floats]:
        found = {}
        for image, parts in zip(images, self._parts(images, cancellation), strict=True):
            if not all(np.isfinite(features_TD).all() for features_TD in parts):
                raise GenerationError(
                    f"image {numbers[image.digest]}'s features are not finite (NaN or infinity; images are "
                    "counted from 0): export the model again with another precision"
                )
            features = join(layout_as_given(image, self._manifest), image.size, parts)
            if features.base is not None:  # a batch's output is not kept for one of its images
                features = features.copy()
            features.flags.writeable = False
            found[image.digest] = features
            self._cache.put(image.digest, features)
            with self._lock:
                self._under_way[image.digest].set_result(features)
        return found

    def _parts(
        self, images: Sequence[PreparedImage], cancellation: Cancellation
    ) -> Iterator[Sequence[Floats]]:
        """For each image the features of its arrays, [T, D] each; several images have one array each."""
        if len(images) > 1 or (images[0].frames is None and len(images[0].arrays) == 1):
            arrays = [array for image in images for array in image.arrays]
            features_NTD = self._features(arrays, images, cancellation)
            yield from ([features_TD] for features_TD in features_NTD)
            return
        parts: list[Floats] = []
        tiles, layout = images[0].arrays, layout_as_given(images[0], self._manifest)
        for start in range(0, len(tiles), ENCODED_AT_ONCE):
            features_NTD = self._features(tiles[start : start + ENCODED_AT_ONCE], (), cancellation)
            parts.extend(kept(layout, features_TD) for features_TD in features_NTD)
        yield parts

    def _features(
        self, arrays: Sequence[Floats], images: Sequence[PreparedImage], cancellation: Cancellation
    ) -> Floats:
        """Features [N, T, D] for the host; where they were computed elsewhere, those of `images` stay there as well."""
        pixels_NCHW = np.stack(arrays)
        if self._resident is None:
            (output,) = cancellation.run(
                self._opened().session, {PIXEL_VALUES: pixels_NCHW}, [IMAGE_FEATURES]
            )
            features_NTD: Floats = output.reshape(len(arrays), -1, self.width)
            return features_NTD
        session = self._opened().session
        there = encode_on_device(session, self._resident.memory, pixels_NCHW, self.width, cancellation)
        for i, image in enumerate(images):
            self._resident.put(image.digest, there.row(i))
        return there.numpy()

    def joined(self, images: Sequence[ImageFeatures]) -> Rows:
        """The features of images one behind another, float32 [M, D], where the decoder computes."""
        if self._resident is not None and images:
            known = {image.digest: image.features for image in images}
            return self._resident.rows(known, [image.digest for image in images], self.width)
        rows = [image.features for image in images]
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)


def encode_on_device(
    session: Any,
    memory: DeviceMemory,
    pixels_NCHW: NDArray[np.float32],
    width: int,
    cancellation: Cancellation,
) -> DeviceArray:
    """Features of images of one size, float32 [N, T, D], left in `memory`.

    Raises:
        RunCancelledError: the run was ended.
        GenerationError: a failure in ONNX Runtime.
    """
    binding = session.io_binding()
    binding.bind_cpu_input(PIXEL_VALUES, pixels_NCHW)
    binding.bind_output(IMAGE_FEATURES, memory.device)
    cancellation.run_bound(session, binding)
    (value,) = binding.get_outputs()
    size = math.prod(value.shape())
    return memory.adopt(value, (len(pixels_NCHW), size // (len(pixels_NCHW) * width), width), np.float32)
