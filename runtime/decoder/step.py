"""A token for each of several slots, on a device: what the host sends and gets is a few numbers.

Enters: a token for each slot. Leaves: logits after each; or where nothing else is wanted the most likely tokens, which
the graph finds itself, so that logits stay where they are.

    tokens ─host─▶ [R, 1] ─embedding─▶ [R, 1, D] ─decoder─▶ greedy_token [R] ─host─▶
                   lengths ─host─▶ mask [R, P] ─▶│     └──▶ logits [R, 1, V], to the host only if asked for
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue, RunOptions

from pumice.decoder.kv_cache import KVCache
from pumice.manifest import DecoderShape
from pumice.manifest.tensors import (
    ATTENTION_MASK,
    GREEDY_TOKEN,
    IMAGE_FEATURES,
    INPUT_IDS,
    INPUTS_EMBEDS,
    LOGITS,
)
from pumice.sessions.arrays import DeviceMemory
from pumice.sessions.opening import Sessions
from pumice.sessions.runs import run_bound

Tokens: TypeAlias = "Sequence[int | None]"

_recordings = itertools.count(1)
"""Numbers of this process's recordings; none is used again, for another cache lies elsewhere."""


def read_lengths(cache: KVCache, slots: range, tokens: Tokens) -> list[int]:
    """How many positions each slot attends to with its next token; one that has none gets a position to write to."""
    for slot, token in zip(slots, tokens, strict=True):
        if token is None:
            cache.rewind(slot, cache.capacity - 1)
    return [cache.length(slot) + 1 for slot in slots]


class DeviceStep:
    """What `DecodeStep` is, in a device's memory: inputs and outputs have fixed places there.

    Where `sessions.captures`, the mask is as wide as the cache, so that no shape changes from token to token: what a
    run launches is then recorded once and launched as a whole (docs/decisions/cuda.md).
    """

    def __init__(
        self, sessions: Sessions, memory: DeviceMemory, shape: DecoderShape, cache: KVCache, slots: range
    ) -> None:
        self.slots, self._sessions, self._cache = slots, sessions, cache
        count = len(slots)
        self._tokens_R1 = memory.zeros((count, 1), np.int64)
        self._embeds_R1D = memory.zeros((count, 1, shape.hidden_size), np.float32)
        self._mask = memory.zeros((count * cache.capacity,), np.int64)
        self._chosen_R = memory.zeros((count,), np.int64)
        self._logits_R1V = memory.zeros((count, 1, shape.vocab_size), np.float32)
        no_features = memory.zeros((0, shape.hidden_size), np.float32)

        self._embedding = sessions.embedding.io_binding()
        self._embedding.bind_ortvalue_input(INPUT_IDS, self._tokens_R1.value)
        self._embedding.bind_ortvalue_input(IMAGE_FEATURES, no_features.value)
        self._embedding.bind_ortvalue_output(INPUTS_EMBEDS, self._embeds_R1D.value)
        self._with_logits, self._with_tokens = (self._decoder_binding() for _ in range(2))
        self._with_logits.bind_ortvalue_output(LOGITS, self._logits_R1V.value)
        self._with_tokens.bind_ortvalue_output(GREEDY_TOKEN, self._chosen_R.value)
        self._recording, self._recording_tokens = (_recording(sessions.captures) for _ in range(2))

    def __call__(self, tokens: Tokens) -> NDArray[np.float32]:
        """Logits after each slot's token; as `DecodeStep`."""
        self._run(tokens, self._with_logits, self._recording)
        logits_R1V: NDArray[np.float32] = self._logits_R1V.numpy()
        return logits_R1V[:, 0]

    def greedy(self, tokens: Tokens) -> list[int]:
        """The most likely token after each slot's, -1 where the logits are not finite; otherwise as `DecodeStep`."""
        self._run(tokens, self._with_tokens, self._recording_tokens)
        chosen: list[int] = self._chosen_R.numpy().tolist()
        return chosen

    def _decoder_binding(self) -> Any:
        binding = self._sessions.decoder.io_binding()
        binding.bind_ortvalue_input(INPUTS_EMBEDS, self._embeds_R1D.value)
        self._cache.bind(binding, self.slots.start, len(self.slots))
        return binding

    def _run(self, tokens: Tokens, binding: Any, options: RunOptions | None) -> None:
        lengths_R = read_lengths(self._cache, self.slots, tokens)
        self._tokens_R1.write(np.array([[token or 0] for token in tokens], np.int64))
        width = self._cache.capacity if self._sessions.captures else max(lengths_R)
        mask_RP = self._mask.part(0, (len(lengths_R), width))
        mask_RP.write((np.arange(width) < np.array(lengths_R)[:, None]).astype(np.int64))
        binding.bind_ortvalue_input(ATTENTION_MASK, mask_RP.value)
        run_bound(self._sessions.embedding, self._embedding)
        run_bound(self._sessions.decoder, binding, options)
        for slot, token in zip(self.slots, tokens, strict=True):
            if token is not None:
                self._cache.fill(slot, [token])


def _recording(captures: bool) -> RunOptions | None:
    """Options by which ONNX Runtime knows the runs that are one recording; nothing where it does not record."""
    if not captures:
        return None
    options = RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(next(_recordings)))
    return options


class DecodeStep:
    """Decodes a token for each of `slots`, with every buffer bound beforehand.

    A step allocates nothing that grows with the cache. Made for the cache's buffers as they are: not after `reserve`.
    """

    def __init__(self, sessions: Sessions, shape: DecoderShape, cache: KVCache, slots: range) -> None:
        count, width = len(slots), shape.hidden_size
        self.slots = slots
        self._sessions, self._cache = sessions, cache
        self._tokens_R1 = np.zeros((count, 1), np.int64)
        self._logits_R1V = np.zeros((count, 1, shape.vocab_size), np.float32)
        self._mask = np.ones(count * cache.capacity, np.int64)
        embeds = OrtValue.ortvalue_from_shape_and_type((count, 1, width), np.float32, sessions.device, 0)
        no_features = np.zeros((0, width), np.float32)

        self._embedding = sessions.embedding.io_binding()
        self._embedding.bind_ortvalue_input(INPUT_IDS, OrtValue.ortvalue_from_numpy(self._tokens_R1))
        self._embedding.bind_ortvalue_input(IMAGE_FEATURES, OrtValue.ortvalue_from_numpy(no_features))
        self._embedding.bind_ortvalue_output(INPUTS_EMBEDS, embeds)

        self._decoder = sessions.decoder.io_binding()
        self._decoder.bind_ortvalue_input(INPUTS_EMBEDS, embeds)
        cache.bind(self._decoder, slots.start, count)
        self._decoder.bind_ortvalue_output(LOGITS, OrtValue.ortvalue_from_numpy(self._logits_R1V))

    def __call__(self, tokens: Sequence[int | None]) -> NDArray[np.float32]:
        """Logits after each slot's token, shape = (count, vocabulary), valid until the next call and not checked.

        None leaves a slot out: its logits mean nothing, and what is written behind its filled positions is overwritten
        by whatever comes there next.

        Raises:
            GenerationError: a failure in ONNX Runtime.
        """
        self._tokens_R1[:, 0] = [token or 0 for token in tokens]
        lengths_R = read_lengths(self._cache, self.slots, tokens)
        longest = max(lengths_R)
        if len(lengths_R) > 1:  # the mask of one slot is all ones
            mask_RP = self._mask[: len(lengths_R) * longest].reshape(-1, longest)
            mask_RP[:] = np.arange(longest) < np.array(lengths_R)[:, None]
        shape = (len(lengths_R), longest)
        self._decoder.bind_input(ATTENTION_MASK, "cpu", 0, np.int64, shape, self._mask.ctypes.data)
        run_bound(self._sessions.embedding, self._embedding)
        run_bound(self._sessions.decoder, self._decoder)
        for slot, token in zip(self.slots, tokens, strict=True):
            if token is not None:
                self._cache.fill(slot, [token])
        return self._logits_R1V[:, 0]
