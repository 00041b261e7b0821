"""Many requests over the slots of one cache: prompts are read in chunks, and all sequences decode together.

    add ─▶ waiting ──slots free──▶ reading ──prompt read──▶ decoding ──strategy says enough──▶ done
                                   a chunk of one request       a token of every row
                                   in each step             in each step

Enters: requests. Leaves: the same requests, done. Nothing here knows of threads, text, or how tokens are chosen.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from pumice.bundle import footprint
from pumice.decoder.decoder import Decoder, finite, not_finite
from pumice.decoder.kv_cache import KVCache
from pumice.decoder.prefix_cache import PrefixCache
from pumice.decoder.prefix_keys import common_prefix
from pumice.decoder.step import DecodeStep, DeviceStep
from pumice.errors import GenerationError, PumiceError
from pumice.generation.strategy import Step
from pumice.scheduler import chunks as cuts
from pumice.scheduler.request import Request, Row
from pumice.sessions.arrays import Rows
from pumice.sessions.runs import RunCancelledError

CHUNK = {"cpu": footprint.CHUNK, "cuda": 2048}
"""Tokens of a prompt that are read at once where nobody else waits. On a CPU more of them are no quicker."""

SHARED_CHUNK = {"cpu": 32, "cuda": 512}
"""The same where others decode meanwhile."""


class Scheduler:
    """Moves requests on, step by step. For one thread at a time; only `Request.cancellation` may be set by others."""

    def __init__(self, decoder: Decoder, cache: KVCache, prefixes: PrefixCache | None = None) -> None:
        self._decoder, self._cache, self._prefixes = decoder, cache, prefixes
        self._free = set(range(cache.slots))
        self._waiting: deque[Request] = deque()
        self._prefilling: deque[Request] = deque()
        self._decoding: list[Request] = []
        self._step: DecodeStep | DeviceStep | None = None

    @property
    def waiting(self) -> int:
        """Requests that have no slot yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that are read or decode."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def free_slots(self) -> int:
        """Slots that no request has."""
        return len(self._free)

    def add(self, request: Request) -> None:
        """Let a request wait for its turn: first come, first served. It must fit into a slot, and its rows into all."""
        assert request.strategy.rows <= self._cache.slots
        self._waiting.append(request)

    def cancel(self, request: Request) -> None:
        """End a request where it is; no effect on one that is done."""
        request.cancellation.set()
        self._drop(request)

    def step(self) -> bool:
        """Read one chunk and decode one token of every row; False once there is nothing left to do.

        A chunk that gives an answer's first token is a step of its own: the token should not wait for others.
        """
        self._drop_cancelled()
        self._admit()
        began = self._prefilling and self._prefill_chunk()
        if self._decoding and not began:
            self._decode_step()
        return bool(self._waiting or self._prefilling or self._decoding)

    def _drop_cancelled(self) -> None:
        for request in [*self._waiting, *self._prefilling, *self._decoding]:
            if request.cancellation.is_set:
                self._drop(request)

    def _admit(self) -> None:
        """Give slots to those who wait, in the order in which they came."""
        while self._waiting and self._waiting[0].strategy.rows <= len(self._free):
            request = self._waiting.popleft()
            request.slots = self._chosen(request)
            self._free.difference_update(request.slots)
            self._reuse(request)
            request.state = "prefill"
            self._prefilling.append(request)

    def _chosen(self, request: Request) -> list[int]:
        """Free slots for a request: first the one that begins most like it, otherwise those that hold least."""
        keys = self._cache.contents
        first = max(
            self._free, key=lambda slot: (common_prefix(keys[slot], request.keys), -len(keys[slot]), -slot)
        )
        others = sorted(self._free - {first}, key=lambda slot: (len(keys[slot]), slot))
        return [first, *others[: request.strategy.rows - 1]]

    def _reuse(self, request: Request) -> None:
        """Keep what the request's slot, or an earlier prompt, has of its prompt; its last tokens are always read."""
        slot, cache = request.slots[0], self._cache
        cache.rewind(slot, common_prefix(cache.contents[slot], request.keys))
        if self._prefixes is not None:
            self._prefixes.restore(cache, slot, request.keys)
        cache.rewind(slot, cuts.resumed(cache.length(slot), len(request.keys)))
        request.cached_tokens = cache.length(slot)

    def _prefill_chunk(self) -> bool:
        """Read some of the prompt of the request whose turn it is; whether its answer began."""
        request = self._prefilling.popleft()
        try:
            logits_V = self._timed_prefill(request)
        except RunCancelledError:
            self._drop(request)
        except Exception as error:
            self._fail(request, error)
        else:
            if logits_V is None:
                self._prefilling.append(request)
            else:
                request.state = "decode"
                self._decoding.append(request)
                if not self._prefilling and not self._waiting:
                    self._decoder.release_prefill(len(request.ids) - request.cached_tokens)
                request.rows = [Row(slot=request.slots[0], step=Step(token=request.ids[-1], parent=0))]
                self._advance(request, [logits_V])
                return True
        return False

    def _timed_prefill(self, request: Request) -> np.ndarray | None:
        """`_prefill`, whose time counts as the prompt's, less what its images took, however it ends."""
        clock = request.clock
        began, vision_s = time.perf_counter(), clock.vision_s
        try:
            return self._prefill(request)
        finally:
            clock.prefill_s += time.perf_counter() - began - (clock.vision_s - vision_s)

    def _prefill(self, request: Request) -> np.ndarray | None:
        """Read a chunk; the logits after it if it was the prompt's last."""
        slot, cache = request.slots[0], self._cache
        start = cache.length(slot)
        if request.remaining_features is None:
            request.remaining_features = self._features(request, start)
        sizes = SHARED_CHUNK if self._decoding else CHUNK
        stop = cuts.run_end(start, len(request.ids), sizes[cache.device])
        keys = request.keys[start:stop]
        images = sum(isinstance(key, bytes) for key in keys)
        features, request.remaining_features = (
            request.remaining_features[:images],
            request.remaining_features[images:],
        )
        ends = stop == len(request.ids)
        return self._decoder.prefill(
            request.ids[start:stop], keys, features, cache, slot, request.cancellation, ends=ends
        )

    def _features(self, request: Request, start: int) -> Rows:
        began = time.perf_counter()
        seen = sum(isinstance(key, bytes) for key in request.keys[:start])
        try:
            return request.features.rows(seen, request.cancellation)
        finally:
            request.clock.vision_s += time.perf_counter() - began

    def _decode_step(self) -> None:
        """One token of every row; or several of the only row, where its strategy has guessed."""
        rows = [row for request in self._decoding for row in request.rows]
        if len(rows) == 1 and rows[0].step.draft and self._decoder.gives_all_logits:
            self._verify_draft(self._decoding[0])
            return
        self._compact(rows)
        slots = [row.slot for row in rows]
        first, count = min(slots), max(slots) - min(slots) + 1
        tokens: list[int | None] = [None] * count
        for row in rows:
            tokens[row.slot - first] = row.step.token
        requests = list(self._decoding)
        try:
            step = self._bound(first, count)
            if isinstance(step, DeviceStep) and self._all_greedy(requests):
                chosen_R = step.greedy(tokens)
                for request in requests:
                    self._accept(request, [chosen_R[row.slot - first] for row in request.rows])
                return
            logits_RV = step(tokens)
        except Exception as error:  # of all rows at once, so that nobody can tell whose it is
            for request in requests:
                self._fail(request, error)
            return
        for request in requests:
            self._advance(request, [logits_RV[row.slot - first] for row in request.rows])

    def _all_greedy(self, requests: list[Request]) -> bool:
        """Whether the likeliest tokens are all that is needed of the logits."""
        return self._decoder.gives_greedy_token and all(request.strategy.is_greedy for request in requests)

    def _bound(self, first: int, count: int) -> DecodeStep | DeviceStep:
        """The step for these slots; those of other slots are forgotten, for their logits take memory."""
        if self._step is None or self._step.slots != range(first, first + count):
            self._step = self._decoder.new_step(self._cache, first, count)
        return self._step

    def _compact(self, rows: list[Row]) -> None:
        """Move the last rows into free slots between the others, which would be computed for nothing."""
        while True:
            last = max(rows, key=lambda row: row.slot)
            first = min(row.slot for row in rows)
            target = next((slot for slot in range(first, last.slot) if slot in self._free), None)
            if target is None:
                return
            request = next(request for request in self._decoding if last in request.rows)
            self._cache.copy(last.slot, target)
            request.slots[request.slots.index(last.slot)] = target
            self._free.remove(target)
            self._free.add(last.slot)
            last.slot = target

    def _verify_draft(self, request: Request) -> None:
        """Read a token with the guesses behind it, and go on for as long as what is chosen is what was guessed."""
        (row,) = request.rows
        cache, start = self._cache, self._cache.length(row.slot)
        draft = row.step.draft[: cache.capacity - start - 1]
        tokens = [row.step.token, *draft]
        none = np.zeros((0, self._decoder.shape.hidden_size), np.float32)
        try:
            logits_NV = self._decoder.forward(tokens, tokens, none, cache, row.slot, keep=0)
        except Exception as error:
            self._fail(request, error)
            return
        cache.rewind(row.slot, start)
        for token, logits_V, guess in zip(tokens, logits_NV, [*draft, None], strict=True):
            cache.fill(row.slot, [token])
            self._advance(request, [logits_V])
            if request.done or request.rows[0].step.token != guess:
                return

    def _advance(self, request: Request, logits_RV: list[np.ndarray]) -> None:
        """Let a request choose its next tokens, and give its rows their slots."""
        try:
            if not all(finite(logits_V) for logits_V in logits_RV):
                raise not_finite()
            steps = request.advance(logits_RV)
        except Exception as error:
            self._fail(request, error)
            return
        self._continue_request(request, steps)

    def _accept(self, request: Request, tokens_R: list[int]) -> None:
        """As `_advance`, with the likeliest tokens; -1 stands for logits that are not finite."""
        try:
            if min(tokens_R) < 0:
                raise not_finite()
            steps = request.accept(tokens_R)
        except Exception as error:
            self._fail(request, error)
            return
        self._continue_request(request, steps)

    def _continue_request(self, request: Request, steps: list[Step]) -> None:
        if steps:
            self._free.update(request.follow(steps, self._cache.copy))
        else:
            self._end(request)

    def _fail(self, request: Request, error: Exception) -> None:
        """End a request alone; what it wrote is forgotten."""
        if isinstance(error, PumiceError):
            request.error = error
        else:
            request.error = GenerationError(f"the request failed: {type(error).__name__}: {error}")
            request.error.__cause__ = error
        for slot in request.slots:
            self._cache.rewind(slot, 0)
        self._end(request)

    def _drop(self, request: Request) -> None:
        """End a request that was cancelled."""
        if not request.done:
            request.cancelled = True
            self._end(request)

    def _end(self, request: Request) -> None:
        """Free a request's slots at once; what they hold serves those who begin alike."""
        request.state = "finished"
        for requests in (self._waiting, self._prefilling, self._decoding):
            if request in requests:
                requests.remove(request)
        if request.slots and request.error is None and self._prefixes is not None:
            self._prefixes.save(self._cache, request.slots[0])
        self._free.update(request.slots)
        request.slots, request.rows, request.remaining_features = [], [], None
