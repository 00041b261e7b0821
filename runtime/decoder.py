"""The embedding and decoder graphs at work on a cache: tokens in, logits out.

read        ids [1, T] + features [M, D] ─embedding─▶ [1, T, D] ─decoder─▶ logits [N, V]   fills T positions of a slot
read_ones   a token each for R slots     ─embedding─▶ [R, 1, D] ─decoder─▶ logits [R, V]   fills one position of each
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue

from pumice.cache import KVCache
from pumice.errors import BundleError, GenerationError
from pumice.interrupt import Cancellation, run, run_bound
from pumice.keys import Key
from pumice.manifest import Manifest
from pumice.sessions import Sessions

Floats = NDArray[np.float32]


class Decoder:
    """Runs a bundle's graphs; holds no state of any sequence, so that several may run at once."""

    def __init__(self, sessions: Sessions, manifest: Manifest) -> None:
        self.sessions = sessions
        self.shape = manifest.decoder
        inputs = {tensor.name for tensor in manifest.graphs.decoder.inputs}
        self._keeps = "num_logits_to_keep" if "num_logits_to_keep" in inputs else None

    @property
    def gives_all_logits(self) -> bool:
        """Whether logits of other positions than the last can be had."""
        return self._keeps is not None

    def new_cache(self, capacity: int, slots: int = 1) -> KVCache:
        """An empty cache with room for `capacity` positions, at most the model's context, in each slot."""
        return KVCache(self.shape, capacity, self.sessions.device, slots)

    def read(
        self,
        ids: Sequence[int],
        keys: Sequence[Key],
        features: Floats,
        cache: KVCache,
        slot: int = 0,
        *,
        cancellation: Cancellation | None = None,
        keep: int = 1,
    ) -> Floats:
        """Logits after the last `keep` of `ids` (0: of all), shape = (keep, vocabulary); the slot grows by `len(ids)`.

        `keys` say what the ids stand for; `features` are those of the pictures in `ids`, shape = (image tokens, D).
        The slot may be filled already. Without a `cancellation` the run cannot be ended: for few tokens. Logits are not
        checked: see `finite`.

        Raises:
            RunCancelledError: the run was ended; the slot is as it was.
            GenerationError: a failure in ONNX Runtime.
        """
        feeds: dict[str, NDArray[Any]] = {"input_ids": np.array([ids], np.int64), "image_features": features}
        embeds_1TD = run(self.sessions.embedding, feeds, ["inputs_embeds"])[0]
        filled = cache.length(slot) + len(ids)
        binding = self.sessions.decoder.io_binding()
        binding.bind_cpu_input("inputs_embeds", embeds_1TD)
        binding.bind_cpu_input("attention_mask", np.ones((1, filled), np.int64))
        if keep != 1:
            if self._keeps is None:
                raise BundleError(
                    "this bundle's decoder gives the last position's logits only: export it again"
                )
            binding.bind_ortvalue_input(self._keeps, OrtValue.ortvalue_from_numpy(np.array(keep, np.int64)))
        cache.bind(binding, slot, 1)
        binding.bind_output("logits", "cpu")
        if cancellation is None:
            run_bound(self.sessions.decoder, binding)
        else:
            cancellation.run_bound(self.sessions.decoder, binding)
        cache.fill(slot, keys)
        logits_NV: Floats = binding.get_outputs()[-1].numpy()[0]
        return logits_NV

    def all_logits(self, ids: Sequence[int], features: Floats) -> Floats:
        """Logits after each of `ids`, float32 [T, V].

        Raises:
            GenerationError: logits that are not finite, or a failure in ONNX Runtime.
            BundleError: the bundle gives the last position's only.
        """
        cache = self.new_cache(len(ids))
        logits_TV = self.read(ids, ids, features, cache, cancellation=Cancellation(), keep=0)
        if not finite(logits_TV):
            raise not_finite()
        return logits_TV


class DecodeStep:
    """Decodes a token for each of the slots `first` … `first + count - 1`, with every buffer bound beforehand.

    A step allocates nothing that grows with the cache. Made for the cache's buffers as they are: not after `reserve`.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, first: int = 0, count: int = 1) -> None:
        sessions, width = decoder.sessions, decoder.shape.hidden_size
        self.slots = range(first, first + count)
        self._sessions, self._cache = sessions, cache
        self._tokens_R1 = np.zeros((count, 1), np.int64)
        self._logits_R1V = np.zeros((count, 1, decoder.shape.vocab_size), np.float32)
        self._mask = np.ones(count * cache.capacity, np.int64)
        embeds = OrtValue.ortvalue_from_shape_and_type((count, 1, width), np.float32, sessions.device, 0)
        no_features = np.zeros((0, width), np.float32)

        self._embedding = sessions.embedding.io_binding()
        self._embedding.bind_ortvalue_input("input_ids", OrtValue.ortvalue_from_numpy(self._tokens_R1))
        self._embedding.bind_ortvalue_input("image_features", OrtValue.ortvalue_from_numpy(no_features))
        self._embedding.bind_ortvalue_output("inputs_embeds", embeds)

        self._decoder = sessions.decoder.io_binding()
        self._decoder.bind_ortvalue_input("inputs_embeds", embeds)
        cache.bind(self._decoder, first, count)
        self._decoder.bind_ortvalue_output("logits", OrtValue.ortvalue_from_numpy(self._logits_R1V))

    def __call__(self, tokens: Sequence[int | None]) -> Floats:
        """Logits after each slot's token, shape = (count, vocabulary), valid until the next call and not checked.

        None leaves a slot out: its logits mean nothing, and what is written behind its filled positions is overwritten
        by whatever is read there next.

        Raises:
            GenerationError: a failure in ONNX Runtime.
        """
        self._tokens_R1[:, 0] = [token or 0 for token in tokens]
        for slot, token in zip(self.slots, tokens, strict=True):
            if token is None:  # it needs a position to write to as well
                self._cache.rewind(slot, self._cache.capacity - 1)
        lengths_R = [self._cache.length(slot) + 1 for slot in self.slots]
        longest = max(lengths_R)
        if len(lengths_R) > 1:  # the mask of one slot is all ones
            mask_RP = self._mask[: len(lengths_R) * longest].reshape(-1, longest)
            mask_RP[:] = np.arange(longest) < np.array(lengths_R)[:, None]
        shape = (len(lengths_R), longest)
        self._decoder.bind_input("attention_mask", "cpu", 0, np.int64, shape, self._mask.ctypes.data)
        run_bound(self._sessions.embedding, self._embedding)
        run_bound(self._sessions.decoder, self._decoder)
        for slot, token in zip(self.slots, tokens, strict=True):
            if token is not None:
                self._cache.fill(slot, [token])
        return self._logits_R1V[:, 0]


def finite(logits: Floats) -> bool:
    """Whether no logit is NaN or infinite: an answer made of NaN would look like any other."""
    return bool(np.isfinite(logits.max()) and np.isfinite(logits.min()))


def not_finite() -> GenerationError:
    """The error for logits that are not `finite`."""
    return GenerationError(
        "the model's logits are not finite (NaN or infinity): export it again with another precision"
    )
