"""The embedding and decoder graphs at work on a cache: tokens in, logits out.

prefill     ids [1, T] + features [M, D] ─embedding─▶ [1, T, D] ─prefill─▶                 fills T positions of a slot
forward     ids [1, T] + features [M, D] ─embedding─▶ [1, T, D] ─decoder─▶ logits [N, V]   fills T positions of a slot
DecodeStep  a token each for R slots     ─embedding─▶ [R, 1, D] ─decoder─▶ logits [R, V]   fills one position of each

Bundles without a prefill graph fill by the decoder too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, OrtValue, RunOptions

from pumice.decoder.embedding import bind_embeds, embed
from pumice.decoder.kv_cache import KVCache
from pumice.decoder.prefix_keys import Key
from pumice.decoder.step import DecodeStep, DeviceStep
from pumice.errors import BundleError, GenerationError
from pumice.machine.pages import release
from pumice.manifest import Manifest
from pumice.manifest.tensors import ATTENTION_MASK, GREEDY_TOKEN, LOGITS, NUM_LOGITS_TO_KEEP
from pumice.sessions.arrays import Rows
from pumice.sessions.opening import Sessions
from pumice.sessions.runs import NOT_RECORDED, Cancellation, run_bound

Floats = NDArray[np.float32]

_LONG = 256
"""Tokens whose prefill takes ten times as long as touching a prefill graph's weights again."""

_UNRECORDED = RunOptions()
_UNRECORDED.add_run_config_entry("gpu_graph_id", NOT_RECORDED)


class Decoder:
    """Runs a bundle's graphs; holds no state of any sequence, so that several may run at once."""

    def __init__(self, sessions: Sessions, manifest: Manifest) -> None:
        self.sessions = sessions
        self.shape = manifest.decoder
        inputs = {tensor.name for tensor in manifest.graphs.decoder.inputs}
        self._keeps = NUM_LOGITS_TO_KEEP if NUM_LOGITS_TO_KEEP in inputs else None
        self.gives_greedy_token = any(
            tensor.name == GREEDY_TOKEN for tensor in manifest.graphs.decoder.outputs
        )
        """Whether the most likely tokens can be had without logits, by a `DeviceStep`."""

    @property
    def gives_all_logits(self) -> bool:
        """Whether logits of other positions than the last can be had."""
        return self._keeps is not None

    def new_cache(self, capacity: int, slots: int = 1) -> KVCache:
        """An empty cache with room for `capacity` positions, at most the model's context, in each slot."""
        return KVCache(self.shape, capacity, self.sessions.device, slots, self.sessions.memory)

    def new_step(self, cache: KVCache, first: int, count: int) -> DecodeStep | DeviceStep:
        """What decodes a token for each of the slots `first` … `first + count - 1`."""
        memory, slots = self.sessions.memory, range(first, first + count)
        if memory is None:
            return DecodeStep(self.sessions, self.shape, cache, slots)
        return DeviceStep(self.sessions, memory, self.shape, cache, slots)

    def forward(
        self,
        ids: Sequence[int],
        keys: Sequence[Key],
        features: Rows,
        cache: KVCache,
        slot: int = 0,
        *,
        cancellation: Cancellation | None = None,
        keep: int = 1,
    ) -> Floats:
        """Logits after the last `keep` of `ids` (0: of all), shape = (keep, vocabulary); the slot grows by `len(ids)`.

        `keys` say what the ids stand for; `features` are those of the images in `ids`, shape = (image tokens, D).
        The slot may be filled already. Without a `cancellation` the run cannot be ended: for few tokens. Logits are not
        checked: see `finite`.

        Raises:
            RunCancelledError: the run was ended; the slot is as it was.
            GenerationError: a failure in ONNX Runtime.
        """
        binding, new = self._bound(self.sessions.decoder, ids, features, cache, slot)
        if keep != 1:
            if self._keeps is None:
                raise BundleError(
                    "this bundle's decoder gives the last position's logits only: export it again"
                )
            binding.bind_ortvalue_input(self._keeps, OrtValue.ortvalue_from_numpy(np.array(keep, np.int64)))
        binding.bind_output(LOGITS, "cpu")
        _run(self.sessions.decoder, binding, cancellation)
        cache.fill(slot, keys, new)
        logits_NV: Floats = binding.get_outputs()[-1].numpy()[0]
        return logits_NV

    def prefill(
        self,
        ids: Sequence[int],
        keys: Sequence[Key],
        features: Rows,
        cache: KVCache,
        slot: int,
        cancellation: Cancellation,
        *,
        ends: bool,
    ) -> Floats | None:
        """The next tokens of a prompt; where it `ends` with them, logits after the last, shape = (vocabulary,).

        Arguments, and what is raised, as for `forward`. Where there is a prefill graph it takes every token but a
        prompt's last, so that what a position holds does not depend on how a prompt was cut.
        """
        if self.sessions.prefill is None:
            logits_1V = self.forward(ids, keys, features, cache, slot, cancellation=cancellation)
            return logits_1V[0] if ends else None
        filled = len(ids) - 1 if ends else len(ids)
        images = sum(isinstance(key, bytes) for key in keys[:filled])
        if filled:
            self._prefill_graph(ids[:filled], keys[:filled], features[:images], cache, slot, cancellation)
        if not ends:
            return None
        last = slice(filled, None)
        rest = features[images:]
        logits_V: Floats = self.forward(ids[last], keys[last], rest, cache, slot, cancellation=cancellation)[
            0
        ]
        return logits_V

    def release_prefill(self, tokens: int) -> None:
        """Prefill is idle; `tokens` of the last prompt went through it.

        Gives back the memory of the prefill graph's mapped weights, where touching them again is cheap beside that.
        """
        if tokens >= _LONG:
            release(self.sessions.released_prefill)

    def _prefill_graph(
        self,
        ids: Sequence[int],
        keys: Sequence[Key],
        features: Rows,
        cache: KVCache,
        slot: int,
        cancellation: Cancellation,
    ) -> None:
        assert self.sessions.prefill is not None
        binding, new = self._bound(self.sessions.prefill, ids, features, cache, slot)
        _run(self.sessions.prefill, binding, cancellation)
        cache.fill(slot, keys, new)

    def _bound(
        self, session: InferenceSession, ids: Sequence[int], features: Rows, cache: KVCache, slot: int
    ) -> tuple[Any, NDArray[Any] | None]:
        """A binding with all but what the decoder alone has, and where new keys and values go if not in place."""
        binding = session.io_binding()
        bind_embeds(binding, embed(self.sessions.embedding, self.sessions.memory, ids, features))
        binding.bind_cpu_input(ATTENTION_MASK, np.ones((1, cache.length(slot) + len(ids)), np.int64))
        return binding, cache.bind(binding, slot, 1, len(ids))

    def all_logits(self, ids: Sequence[int], features: Rows) -> Floats:
        """Logits after each of `ids`, float32 [T, V].

        Raises:
            GenerationError: logits that are not finite, or a failure in ONNX Runtime.
            BundleError: the bundle gives the last position's only.
        """
        cache = self.new_cache(len(ids))
        logits_TV = self.forward(ids, ids, features, cache, cancellation=Cancellation(), keep=0)
        if not finite(logits_TV):
            raise not_finite()
        return logits_TV


def _run(session: InferenceSession, binding: Any, cancellation: Cancellation | None) -> None:
    if cancellation is None:
        run_bound(session, binding, _UNRECORDED)
    else:
        cancellation.run_bound(session, binding)


def finite(logits: Floats) -> bool:
    """Whether no logit is NaN or infinite: an answer made of NaN would look like any other."""
    return bool(np.isfinite(logits.max()) and np.isfinite(logits.min()))


def not_finite() -> GenerationError:
    """The error for logits that are not `finite`."""
    return GenerationError(
        "the model's logits are not finite (NaN or infinity): export it again with another precision"
    )
