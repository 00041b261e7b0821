"""The three graphs at work on one sequence: pictures to features, a prompt to its first logits, a token to the next.

prefill      ids [1, T] + features [M, D] ─embedding─▶ [1, T, D] ─decoder─▶ logits [V]   fills T positions of the cache
decode_one   token                        ─embedding─▶ [1, 1, D] ─decoder─▶ logits [V]   fills one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue

from pumice.cache import KVCache
from pumice.errors import BundleError, GenerationError
from pumice.manifest import Manifest
from pumice.sessions import Sessions

Floats = NDArray[np.float32]


class Decoder:
    """Runs a bundle's graphs; holds no state of any sequence, so that several may run at once."""

    def __init__(self, sessions: Sessions, manifest: Manifest) -> None:
        self.sessions = sessions
        self.shape = manifest.decoder
        inputs = {tensor.name for tensor in manifest.graphs.decoder.inputs}
        self._one_size = manifest.image.size is not None
        self._keeps = "num_logits_to_keep" if "num_logits_to_keep" in inputs else None

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache with room for `capacity` positions, at most the model's context."""
        return KVCache(self.shape, capacity, self.sessions.device)

    def encode_pictures(self, pictures: Sequence[Floats]) -> Floats:
        """Features of pictures: N × float32 [3, height, width] → [image tokens, D].

        Pictures of one size go through the encoder together, those that vary one by one: it takes no padding.
        """
        batches = [pictures] if self._one_size and pictures else [[picture] for picture in pictures]
        features = [np.zeros((0, self.shape.hidden_size), np.float32)]
        for batch in batches:
            feeds = {"pixel_values": np.stack(batch)}
            outputs = _run(self.sessions.vision_encoder, feeds, ["image_features"])
            features.append(outputs[0].reshape(-1, self.shape.hidden_size))
        return np.concatenate(features)

    def prefill(self, ids: Sequence[int], features: Floats, cache: KVCache) -> Floats:
        """Logits after the last of `ids`, shape = (vocabulary,); the cache grows by `len(ids)` positions.

        `features` are those of the pictures in `ids`, shape = (image tokens, D). The cache may be filled already: a
        conversation goes on.

        Raises:
            GenerationError: logits that are not finite, or a failure in ONNX Runtime.
        """
        return _checked(self._logits(ids, features, cache, keep=1)[-1])

    def all_logits(self, ids: Sequence[int], features: Floats) -> Floats:
        """Logits after each of `ids`, shape = (T, vocabulary). Raises as `prefill`."""
        logits_TV = self._logits(ids, features, self.new_cache(len(ids)), keep=0)
        if len(logits_TV) != len(ids):
            raise BundleError("this bundle's decoder gives the last position's logits only: export it again")
        return logits_TV

    def _logits(self, ids: Sequence[int], features: Floats, cache: KVCache, *, keep: int) -> Floats:
        embeds_1TD = _run(
            self.sessions.embedding,
            {"input_ids": np.array([ids], np.int64), "image_features": features},
            ["inputs_embeds"],
        )[0]
        filled = cache.length + len(ids)
        binding = self.sessions.decoder.io_binding()
        binding.bind_cpu_input("inputs_embeds", embeds_1TD)
        binding.bind_cpu_input("attention_mask", np.ones((1, filled), np.int64))
        if self._keeps and keep != 1:
            binding.bind_ortvalue_input(self._keeps, OrtValue.ortvalue_from_numpy(np.array(keep, np.int64)))
        bind_cache(binding, cache)
        binding.bind_output("logits", "cpu")
        _run_bound(self.sessions.decoder, binding)
        cache.length = filled
        logits_NV: Floats = binding.get_outputs()[-1].numpy()[0]
        return logits_NV


class DecodeStep:
    """Decodes token after token into one cache, with every buffer bound beforehand: a step allocates nothing."""

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        sessions, width = decoder.sessions, decoder.shape.hidden_size
        self._sessions, self._cache = sessions, cache
        self._token_11 = np.zeros((1, 1), np.int64)
        self._logits_11V = np.zeros((1, 1, decoder.shape.vocab_size), np.float32)
        self._mask_1C = np.ones((1, cache.capacity), np.int64)
        embeds = OrtValue.ortvalue_from_shape_and_type((1, 1, width), np.float32, sessions.device, 0)
        no_features = np.zeros((0, width), np.float32)

        self._embedding = sessions.embedding.io_binding()
        self._embedding.bind_ortvalue_input("input_ids", OrtValue.ortvalue_from_numpy(self._token_11))
        self._embedding.bind_ortvalue_input("image_features", OrtValue.ortvalue_from_numpy(no_features))
        self._embedding.bind_ortvalue_output("inputs_embeds", embeds)

        self._decoder = sessions.decoder.io_binding()
        self._decoder.bind_ortvalue_input("inputs_embeds", embeds)
        bind_cache(self._decoder, cache)
        self._decoder.bind_ortvalue_output("logits", OrtValue.ortvalue_from_numpy(self._logits_11V))

    def __call__(self, token: int) -> Floats:
        """Logits after `token`, shape = (vocabulary,), valid until the next call.

        Raises:
            GenerationError: logits that are not finite, or a failure in ONNX Runtime.
        """
        filled = self._cache.length + 1
        self._token_11[0, 0] = token
        self._decoder.bind_input("attention_mask", "cpu", 0, np.int64, (1, filled), self._mask_1C.ctypes.data)
        _run_bound(self._sessions.embedding, self._embedding)
        _run_bound(self._sessions.decoder, self._decoder)
        self._cache.length = filled
        return _checked(self._logits_11V[0, 0])


def bind_cache(binding: Any, cache: KVCache) -> None:
    """Bind the cache's buffers as past and as present."""
    for i, buffer in enumerate(cache.buffers):
        tensor = f"{i // 2}.{'value' if i % 2 else 'key'}"
        binding.bind_ortvalue_input(f"past_key_values.{tensor}", buffer)
        binding.bind_ortvalue_output(f"present.{tensor}", buffer)


def _run(session: Any, feeds: dict[str, NDArray[Any]], outputs: list[str]) -> list[Any]:
    try:
        results: list[Any] = session.run(outputs, feeds)
    except Exception as error:  # ONNX Runtime has no public root of its exceptions
        raise _failure(error) from None
    return results


def _run_bound(session: Any, binding: Any) -> None:
    try:
        session.run_with_iobinding(binding)
    except Exception as error:  # ONNX Runtime has no public root of its exceptions
        raise _failure(error) from None


def _failure(error: Exception) -> GenerationError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return GenerationError(f"ONNX Runtime failed: {lines[0][:300]}")


def _checked(logits_V: Floats) -> Floats:
    """The logits, if they are finite: an answer made of NaN would look like any other."""
    if not (np.isfinite(logits_V.max()) and np.isfinite(logits_V.min())):
        raise GenerationError(
            "the model's logits are not finite (NaN or infinity): export it again with another precision"
        )
    return logits_V
