"""Many requests over the slots of one cache: prompts are read in chunks, and all sequences decode together.

    add ─▶ waiting ──slots free──▶ reading ──prompt read──▶ decoding ──strategy says enough──▶ done
                                   a chunk of one job       a token of every row
                                   in each step             in each step

Enters: jobs. Leaves: the same jobs, done. Nothing here knows of threads, text, or how tokens are chosen.
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
from pumice.scheduler.request import Job, Row
from pumice.sessions.arrays import Rows
from pumice.sessions.runs import RunCancelledError

CHUNK = {"cpu": footprint.CHUNK, "cuda": 2048}
"""Tokens of a prompt that are read at once where nobody else waits. On a CPU more of them are no quicker."""

SHARED_CHUNK = {"cpu": 32, "cuda": 512}
"""The same where others decode meanwhile."""


class Scheduler:
    """Moves jobs on, step by step. For one thread at a time; only `Job.cancellation` may be set by others."""

    def __init__(self, decoder: Decoder, cache: KVCache, prefixes: PrefixCache | None = None) -> None:
        self._decoder, self._cache, self._prefixes = decoder, cache, prefixes
        self._free = set(range(cache.slots))
        self._waiting: deque[Job] = deque()
        self._reading: deque[Job] = deque()
        self._decoding: list[Job] = []
        self._decode_step: DecodeStep | DeviceStep | None = None

    @property
    def waiting(self) -> int:
        """Jobs that have no slot yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs that are read or decode."""
        return len(self._reading) + len(self._decoding)

    @property
    def free_slots(self) -> int:
        """Slots that no job has."""
        return len(self._free)

    def add(self, job: Job) -> None:
        """Let a job wait for its turn: first come, first served. It must fit into a slot, and its rows into all."""
        assert job.strategy.rows <= self._cache.slots
        self._waiting.append(job)

    def cancel(self, job: Job) -> None:
        """End a job where it is; no effect on one that is done."""
        job.cancellation.set()
        self._drop(job)

    def step(self) -> bool:
        """Read one chunk and decode one token of every row; False once there is nothing left to do.

        A chunk that gives an answer's first token is a step of its own: the token should not wait for others.
        """
        self._drop_cancelled()
        self._admit()
        began = self._reading and self._read_chunk()
        if self._decoding and not began:
            self._decode()
        return bool(self._waiting or self._reading or self._decoding)

    def _drop_cancelled(self) -> None:
        for job in [*self._waiting, *self._reading, *self._decoding]:
            if job.cancellation.is_set:
                self._drop(job)

    def _admit(self) -> None:
        """Give slots to those who wait, in the order in which they came."""
        while self._waiting and self._waiting[0].strategy.rows <= len(self._free):
            job = self._waiting.popleft()
            job.slots = self._chosen(job)
            self._free.difference_update(job.slots)
            self._reuse(job)
            job.state = "reading"
            self._reading.append(job)

    def _chosen(self, job: Job) -> list[int]:
        """Free slots for a job: first the one that begins most like it, otherwise those that hold least."""
        keys = self._cache.keys
        first = max(
            self._free, key=lambda slot: (common_prefix(keys[slot], job.keys), -len(keys[slot]), -slot)
        )
        others = sorted(self._free - {first}, key=lambda slot: (len(keys[slot]), slot))
        return [first, *others[: job.strategy.rows - 1]]

    def _reuse(self, job: Job) -> None:
        """Keep what the job's slot, or an earlier prompt, has of its prompt; its last tokens are always read."""
        slot, cache = job.slots[0], self._cache
        cache.rewind(slot, common_prefix(cache.keys[slot], job.keys))
        if self._prefixes is not None:
            self._prefixes.restore(cache, slot, job.keys)
        cache.rewind(slot, cuts.resumed(cache.length(slot), len(job.keys)))
        job.reused = cache.length(slot)

    def _read_chunk(self) -> bool:
        """Read some of the prompt of the job whose turn it is; whether its answer began."""
        job = self._reading.popleft()
        try:
            logits_V = self._timed_read(job)
        except RunCancelledError:
            self._drop(job)
        except Exception as error:
            self._fail(job, error)
        else:
            if logits_V is None:
                self._reading.append(job)
            else:
                job.state = "decoding"
                self._decoding.append(job)
                if not self._reading and not self._waiting:
                    self._decoder.rest(len(job.ids) - job.reused)
                job.rows = [Row(slot=job.slots[0], step=Step(token=job.ids[-1], parent=0))]
                self._advance(job, [logits_V])
                return True
        return False

    def _timed_read(self, job: Job) -> np.ndarray | None:
        """`_read`, whose time counts as the prompt's, less what its pictures took, however it ends."""
        clock = job.clock
        began, vision_s = time.perf_counter(), clock.vision_s
        try:
            return self._read(job)
        finally:
            clock.prefill_s += time.perf_counter() - began - (clock.vision_s - vision_s)

    def _read(self, job: Job) -> np.ndarray | None:
        """Read a chunk; the logits after it if it was the prompt's last."""
        slot, cache = job.slots[0], self._cache
        start = cache.length(slot)
        if job.unread_features is None:
            job.unread_features = self._features(job, start)
        sizes = SHARED_CHUNK if self._decoding else CHUNK
        stop = cuts.run_end(start, len(job.ids), sizes[cache.device])
        keys = job.keys[start:stop]
        pictures = sum(isinstance(key, bytes) for key in keys)
        features, job.unread_features = job.unread_features[:pictures], job.unread_features[pictures:]
        ends = stop == len(job.ids)
        return self._decoder.read_prompt(
            job.ids[start:stop], keys, features, cache, slot, job.cancellation, ends=ends
        )

    def _features(self, job: Job, start: int) -> Rows:
        began = time.perf_counter()
        seen = sum(isinstance(key, bytes) for key in job.keys[:start])
        try:
            return job.features.rows(seen, job.cancellation)
        finally:
            job.clock.vision_s += time.perf_counter() - began

    def _decode(self) -> None:
        """One token of every row; or several of the only row, where its strategy has guessed."""
        rows = [row for job in self._decoding for row in job.rows]
        if len(rows) == 1 and rows[0].step.draft and self._decoder.gives_all_logits:
            self._verify(self._decoding[0])
            return
        self._compact(rows)
        slots = [row.slot for row in rows]
        first, count = min(slots), max(slots) - min(slots) + 1
        tokens: list[int | None] = [None] * count
        for row in rows:
            tokens[row.slot - first] = row.step.token
        jobs = list(self._decoding)
        try:
            step = self._bound(first, count)
            if isinstance(step, DeviceStep) and self._takes_tokens(jobs):
                chosen_R = step.likeliest(tokens)
                for job in jobs:
                    self._accept(job, [chosen_R[row.slot - first] for row in job.rows])
                return
            logits_RV = step(tokens)
        except Exception as error:  # of all rows at once, so that nobody can tell whose it is
            for job in jobs:
                self._fail(job, error)
            return
        for job in jobs:
            self._advance(job, [logits_RV[row.slot - first] for row in job.rows])

    def _takes_tokens(self, jobs: list[Job]) -> bool:
        """Whether the likeliest tokens are all that is needed of the logits."""
        return self._decoder.gives_tokens and all(job.strategy.takes_likeliest for job in jobs)

    def _bound(self, first: int, count: int) -> DecodeStep | DeviceStep:
        """The step for these slots; those of other slots are forgotten, for their logits take memory."""
        if self._decode_step is None or self._decode_step.slots != range(first, first + count):
            self._decode_step = self._decoder.new_step(self._cache, first, count)
        return self._decode_step

    def _compact(self, rows: list[Row]) -> None:
        """Move the last rows into free slots between the others, which would be computed for nothing."""
        while True:
            last = max(rows, key=lambda row: row.slot)
            first = min(row.slot for row in rows)
            target = next((slot for slot in range(first, last.slot) if slot in self._free), None)
            if target is None:
                return
            job = next(job for job in self._decoding if last in job.rows)
            self._cache.copy(last.slot, target)
            job.slots[job.slots.index(last.slot)] = target
            self._free.remove(target)
            self._free.add(last.slot)
            last.slot = target

    def _verify(self, job: Job) -> None:
        """Read a token with the guesses behind it, and go on for as long as what is chosen is what was guessed."""
        (row,) = job.rows
        cache, start = self._cache, self._cache.length(row.slot)
        draft = row.step.draft[: cache.capacity - start - 1]
        tokens = [row.step.token, *draft]
        none = np.zeros((0, self._decoder.shape.hidden_size), np.float32)
        try:
            logits_NV = self._decoder.read(tokens, tokens, none, cache, row.slot, keep=0)
        except Exception as error:
            self._fail(job, error)
            return
        cache.rewind(row.slot, start)
        for token, logits_V, guess in zip(tokens, logits_NV, [*draft, None], strict=True):
            cache.fill(row.slot, [token])
            self._advance(job, [logits_V])
            if job.done or job.rows[0].step.token != guess:
                return

    def _advance(self, job: Job, logits_RV: list[np.ndarray]) -> None:
        """Let a job choose its next tokens, and give its rows their slots."""
        try:
            if not all(finite(logits_V) for logits_V in logits_RV):
                raise not_finite()
            steps = job.advance(logits_RV)
        except Exception as error:
            self._fail(job, error)
            return
        self._go_on(job, steps)

    def _accept(self, job: Job, tokens_R: list[int]) -> None:
        """As `_advance`, with the likeliest tokens; -1 stands for logits that are not finite."""
        try:
            if min(tokens_R) < 0:
                raise not_finite()
            steps = job.accept(tokens_R)
        except Exception as error:
            self._fail(job, error)
            return
        self._go_on(job, steps)

    def _go_on(self, job: Job, steps: list[Step]) -> None:
        if steps:
            self._free.update(job.follow(steps, self._cache.copy))
        else:
            self._end(job)

    def _fail(self, job: Job, error: Exception) -> None:
        """End a job alone; what it wrote is forgotten."""
        if isinstance(error, PumiceError):
            job.error = error
        else:
            job.error = GenerationError(f"the request failed: {type(error).__name__}: {error}")
            job.error.__cause__ = error
        for slot in job.slots:
            self._cache.rewind(slot, 0)
        self._end(job)

    def _drop(self, job: Job) -> None:
        """End a job that was cancelled."""
        if not job.done:
            job.cancelled = True
            self._end(job)

    def _end(self, job: Job) -> None:
        """Free a job's slots at once; what they hold serves those who begin alike."""
        job.state = "done"
        for jobs in (self._waiting, self._reading, self._decoding):
            if job in jobs:
                jobs.remove(job)
        if job.slots and job.error is None and self._prefixes is not None:
            self._prefixes.save(self._cache, job.slots[0])
        self._free.update(job.slots)
        job.slots, job.rows, job.unread_features = [], [], None
