"""Many requests over the slots of one cache: chunked prefill, and all sequences decode together.

    add ─▶ waiting ──slots free──▶ prefill ──prompt done──▶ decode ──strategy says enough──▶ finished
                                   a chunk of one request   a token of every row
                                   in each step             in each step

Enters: requests. Leaves: the same requests, done. What is run next is decided in `batch`; here it is run on decoder and
cache, and its logits move the requests on. Nothing here knows of threads, text, or how tokens are chosen.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice

import numpy as np

from pumice.bundle import footprint
from pumice.decoder.decoder import Decoder, finite, not_finite
from pumice.decoder.kv_cache import KVCache
from pumice.decoder.prefix_cache import PrefixCache
from pumice.decoder.prefix_keys import common_prefix
from pumice.decoder.step import DecodeStep, DeviceStep
from pumice.generation.strategy import Step
from pumice.scheduler import batch
from pumice.scheduler.chunks import resumed
from pumice.scheduler.request import Request, RequestState, Row, as_pumice_error
from pumice.sessions.runs import RunCancelledError

CHUNK = {"cpu": footprint.CHUNK, "cuda": 2048}
"""Prefill chunk size, in tokens, while no sequence is decoding. On a CPU more of them are no quicker."""

SHARED_CHUNK = {"cpu": 32, "cuda": 512}
"""The same while sequences are decoding and one prompt is in prefill."""


class Scheduler:
    """Moves requests on, step by step. For one thread at a time; only `Request.cancellation` may be set by others."""

    def __init__(self, decoder: Decoder, cache: KVCache, prefixes: PrefixCache | None = None) -> None:
        self._decoder, self._cache, self._prefixes = decoder, cache, prefixes
        self._free = set(range(cache.slots))
        self._waiting: deque[Request] = deque()
        self._prefilling: list[Request] = []
        self._decoding: list[Request] = []
        self._prefilled = 0
        """Tokens of all prompts so far."""
        self._waited = 0
        """How many of them rows have waited for since they decoded."""
        self._step: DecodeStep | DeviceStep | None = None

    @property
    def waiting(self) -> int:
        """Requests that have no slot yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests in prefill or decode."""
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
        """Prefill one chunk and decode one token of every row; False once there is nothing left to do.

        A chunk that gives an answer's first token may be a step of its own: `batch.decodes_behind`.
        """
        self._drop_cancelled()
        self._admit()
        chunk = batch.prefill_chunk(self._state()) if self._prefilling else None
        if chunk is not None:
            self._waited = self._waited + chunk.stop - chunk.start if self._decoding else 0
            self._prefill_chunk(chunk)
        if self._decoding and batch.decodes_behind(chunk, self._waited, 2 * CHUNK[self._cache.device]):
            self._decode()
            self._waited = 0
        return bool(self._waiting or self._prefilling or self._decoding)

    def _state(self, fitting: int = 0) -> batch.State:
        """What decisions are made of; of those who wait, the first `fitting`."""
        cache = self._cache
        return batch.State(
            chunk=CHUNK[cache.device],
            shared_chunk=SHARED_CHUNK[cache.device],
            capacity=cache.capacity,
            all_logits=self._decoder.gives_all_logits,
            free=frozenset(self._free),
            waiting=[self._waiting_state(request) for request in islice(self._waiting, fitting)],
            prompts=[
                batch.Prompt(tokens=len(request.ids), held=cache.length(request.slots[0]), due=request.due)
                for request in self._prefilling
            ],
            rows=[
                batch.DecodeRow(slot=row.slot, held=cache.length(row.slot), draft=len(row.step.draft))
                for request in self._decoding
                for row in request.rows
            ],
        )

    def _waiting_state(self, request: Request) -> batch.Waiting:
        """Compares the prompt with what each free slot holds: for requests that are about to have slots only."""
        vacancies = [
            batch.Vacancy(slot=slot, held=len(contents), common=common_prefix(contents, request.keys))
            for slot, contents in enumerate(self._cache.contents)
            if slot in self._free
        ]
        return batch.Waiting(rows=request.strategy.rows, vacancies=vacancies)

    def _drop_cancelled(self) -> None:
        for request in [*self._waiting, *self._prefilling, *self._decoding]:
            if request.cancellation.is_set:
                self._drop(request)

    def _admit(self) -> None:
        """Give slots to those who wait, in the order in which they came."""
        free = len(self._free)
        fitting = batch.fitting((request.strategy.rows for request in islice(self._waiting, free)), free)
        for slots in batch.admissions(self._state(fitting)) if fitting else ():
            request = self._waiting.popleft()
            request.slots = list(slots)
            self._free.difference_update(slots)
            self._reuse(request)
            request.state = RequestState.PREFILL
            request.due = batch.due(self._prefilled, len(request.ids) - request.cached_tokens)
            self._prefilling.append(request)

    def _reuse(self, request: Request) -> None:
        """Keep the prefix that the slot or the prefix cache has of a prompt, whose last tokens are always prefilled."""
        slot, cache = request.slots[0], self._cache
        cache.rewind(slot, common_prefix(cache.contents[slot], request.keys))
        if self._prefixes is not None:
            self._prefixes.restore(cache, slot, request.keys)
        cache.rewind(slot, resumed(cache.length(slot), len(request.keys)))
        request.cached_tokens = cache.length(slot)

    def _prefill_chunk(self, chunk: batch.PrefillChunk) -> None:
        """Prefill a chunk of a prompt; behind its last one its answer begins."""
        request = self._prefilling[chunk.prompt]
        try:
            logits_V = self._prefill(request, chunk)
        except RunCancelledError:
            self._drop(request)
        except Exception as error:
            self._fail(request, error)
        else:
            self._prefilled += chunk.stop - chunk.start
            if logits_V is not None:
                self._prefilling.remove(request)
                self._begin(request, logits_V)
            elif batch.part_ends(chunk):
                request.due = batch.due(self._prefilled, len(request.ids) - chunk.stop)

    def _prefill(self, request: Request, chunk: batch.PrefillChunk) -> np.ndarray | None:
        """The logits after a chunk if it was the prompt's last. Its time is the prompt's, less what its images took."""
        clock, span = request.clock, slice(chunk.start, chunk.stop)
        began, vision_s = time.perf_counter(), clock.vision_s
        try:
            ids, keys, slot = request.ids[span], request.keys[span], request.slots[0]
            features = request.take_features(chunk.start, chunk.stop)
            stop = request.cancellation
            return self._decoder.prefill(ids, keys, features, self._cache, slot, stop, ends=chunk.ends)
        finally:
            clock.prefill_s += time.perf_counter() - began - (clock.vision_s - vision_s)

    def _begin(self, request: Request, logits_V: np.ndarray) -> None:
        """Prefill is done: choose the answer's first tokens."""
        request.state = RequestState.DECODE
        self._decoding.append(request)
        if not self._prefilling and not self._waiting:
            self._decoder.release_prefill(len(request.ids) - request.cached_tokens)
        request.rows = [Row(slot=request.slots[0], step=Step(token=request.ids[-1], parent=0))]
        self._advance(request, [logits_V])

    def _decode(self) -> None:
        """One token of every row; or several of the only row, where its strategy has drafted."""
        decided = batch.decode_batch(self._state())
        if isinstance(decided, batch.DraftCheck):
            self._verify_draft(self._decoding[0], decided.tokens)
        elif decided is not None:
            for move in decided.moves:
                self._move(move)
            self._decode_step(decided.first, decided.count)

    def _decode_step(self, first: int, count: int) -> None:
        """A token of every row; all of them lie in `count` slots from `first` on."""
        requests = list(self._decoding)
        tokens: list[int | None] = [None] * count
        for row in (row for request in requests for row in request.rows):
            tokens[row.slot - first] = row.step.token
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
        """Whether the most likely tokens are all that is needed of the logits."""
        return self._decoder.gives_greedy_token and all(request.strategy.is_greedy for request in requests)

    def _bound(self, first: int, count: int) -> DecodeStep | DeviceStep:
        """The step for these slots; those of other slots are forgotten, for their logits take memory."""
        if self._step is None or self._step.slots != range(first, first + count):
            self._step = self._decoder.new_step(self._cache, first, count)
        return self._step

    def _move(self, move: batch.Move) -> None:
        """Move a row into a free slot."""
        request = next(request for request in self._decoding if move.source in request.slots)
        self._cache.copy(move.source, move.target)
        request.move(move.source, move.target)
        self._free.remove(move.target)
        self._free.add(move.source)

    def _verify_draft(self, request: Request, count: int) -> None:
        """Verify `count` drafted tokens behind a token: go on for as long as what is chosen is what was drafted."""
        (row,) = request.rows
        cache, start = self._cache, self._cache.length(row.slot)
        draft = row.step.draft[:count]
        tokens = [row.step.token, *draft]
        none = np.zeros((0, self._decoder.shape.hidden_size), np.float32)
        try:
            logits_NV = self._decoder.forward(tokens, tokens, none, cache, row.slot, keep=0)
        except Exception as error:
            self._fail(request, error)
            return
        cache.rewind(row.slot, start)
        for token, logits_V, drafted in zip(tokens, logits_NV, [*draft, None], strict=True):
            cache.fill(row.slot, [token])
            self._advance(request, [logits_V])
            if request.done or request.rows[0].step.token != drafted:
                return

    def _advance(self, request: Request, logits_RV: list[np.ndarray]) -> None:
        """Let a request choose its next tokens by the logits of its rows."""
        self._digest(
            request, all(finite(logits_V) for logits_V in logits_RV), partial(request.advance, logits_RV)
        )

    def _accept(self, request: Request, tokens_R: list[int]) -> None:
        """As `_advance`, with the most likely tokens; -1 stands for logits that are not finite."""
        self._digest(request, min(tokens_R) >= 0, partial(request.accept, tokens_R))

    def _digest(self, request: Request, finite: bool, choose: Callable[[], list[Step]]) -> None:
        """Give the rows that go on their slots, or end the request."""
        try:
            if not finite:
                raise not_finite()
            steps = choose()
        except Exception as error:
            self._fail(request, error)
            return
        if steps:
            self._free.update(request.follow(steps, self._cache.copy))
        else:
            self._end(request, RequestState.FINISHED)

    def _fail(self, request: Request, error: Exception) -> None:
        """End a request alone; what it wrote is forgotten."""
        request.error = as_pumice_error(error)
        for slot in request.slots:
            self._cache.rewind(slot, 0)
        self._end(request, RequestState.FAILED)

    def _drop(self, request: Request) -> None:
        """End a request that was cancelled."""
        if not request.done:
            self._end(request, RequestState.CANCELLED)

    def _end(self, request: Request, state: RequestState) -> None:
        """Free a request's slots at once; what they hold serves those who begin alike."""
        request.state = state
        for requests in (self._waiting, self._prefilling, self._decoding):
            if request in requests:
                requests.remove(request)
        if request.slots and state is not RequestState.FAILED and self._prefixes is not None:
            self._prefixes.save(self._cache, request.slots[0])
        self._free.update(request.slots)
        request.slots, request.rows, request.remaining_features = [], [], None
