"""A request under way: its prompt, how it is continued, its state, and what came of it.

Enters: a prepared prompt and a strategy. Leaves: text as it becomes final, and the `Generation` objects in the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from pumice.decoder.prefix_keys import Key
from pumice.errors import GenerationError, PumiceError
from pumice.generation.strategy import Step, Strategy
from pumice.result import Generation, Timings, Usage
from pumice.sessions.arrays import Rows
from pumice.sessions.runs import Cancellation
from pumice.vision.features import PromptFeatures


class RequestState(StrEnum):
    """Where a request is: `waiting → prefill → decode →` one of the three ends, to which any of them may lead."""

    WAITING = "waiting"
    """It has no slots."""
    PREFILL = "prefill"
    """It has slots, and its prompt is prefilled in chunks."""
    DECODE = "decode"
    """Its answer has begun: a token of every row in each step."""
    FINISHED = "finished"
    """Its strategy has said enough."""
    CANCELLED = "cancelled"
    """It was ended where it stood: its results are what it had said until then."""
    FAILED = "failed"
    """It has no results: `Request.error` says why."""

    @property
    def is_end(self) -> bool:
        """Whether nothing comes after it."""
        return self in _ENDS


_ENDS = frozenset({RequestState.FINISHED, RequestState.CANCELLED, RequestState.FAILED})


@dataclass(kw_only=True)
class Clock:
    """When things happened, in seconds of `time.perf_counter`; durations in seconds."""

    started: float
    load_s: float = 0.0
    preprocess_s: float = 0.0
    vision_s: float = 0.0
    prefill_s: float = 0.0
    first: float | None = None
    """When the first token was chosen."""
    last: float | None = None
    """When the latest was."""


@dataclass(kw_only=True)
class Row:
    """A sequence of a request that goes on: its slot of the cache, and the token of its next decode step."""

    slot: int
    step: Step


class Request:
    """One request. Made by `Pipeline.request`, moved on by a `Scheduler`.

    `ids` is the whole prompt, `keys` what they stand for; an answer gets `max_new_tokens` at most, so that a slot must
    have `capacity` positions.
    """

    def __init__(
        self,
        ids: Sequence[int],
        keys: Sequence[Key],
        features: PromptFeatures,
        strategy: Strategy,
        clock: Clock,
        *,
        max_new_tokens: int,
    ) -> None:
        self.capacity = len(ids) + max_new_tokens
        self.ids, self.keys, self.features = ids, keys, features
        self.strategy, self.clock = strategy, clock
        self.cancellation = Cancellation()
        self.state = RequestState.WAITING
        """How far it is, and in the end how it ended; the scheduler's to write."""
        self.error: PumiceError | None = None
        """Why it failed."""
        self.due = 0
        """When the next part of its prompt should be read, as `batch.due` says."""
        self.slots: list[int] = []
        """Slots of the cache that are this request's, those of `rows` among them."""
        self.rows: list[Row] = []
        self.cached_tokens = 0
        """Prompt tokens served from the KV cache (prefix hits)."""
        self.tokens = 0
        """Tokens generated so far, of all rows."""
        self.remaining_features: Rows | None = None
        """Features of the image tokens that are not prefilled yet; None until they are asked for."""

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state.is_end

    @property
    def cancelled(self) -> bool:
        """Whether it was ended before its strategy had said enough."""
        return self.state is RequestState.CANCELLED

    def take_features(self, start: int, stop: int) -> Rows:
        """Features of the image tokens at positions `start` … `stop - 1`, each asked for once and in order.

        The first call encodes the images that are not behind it and not encoded yet; its time is noted. Raises as
        `ImageEncoder.encode`.
        """
        if self.remaining_features is None:
            began = time.perf_counter()
            try:
                seen = self._image_tokens(0, start)
                self.remaining_features = self.features.rows(seen, self.cancellation)
            finally:
                self.clock.vision_s += time.perf_counter() - began
        images = self._image_tokens(start, stop)
        taken, self.remaining_features = self.remaining_features[:images], self.remaining_features[images:]
        return taken

    def _image_tokens(self, start: int, stop: int) -> int:
        return sum(isinstance(key, bytes) for key in self.keys[start:stop])

    def advance(self, logits_RV: Sequence[NDArray[np.float32]]) -> list[Step]:
        """Let the strategy choose; notes the time."""
        chosen = (
            self.strategy.rows if self.clock.first is None else len(logits_RV)
        )  # all begin with the prompt
        return self._noted(chosen, self.strategy.advance(logits_RV))

    def accept(self, tokens_R: Sequence[int]) -> list[Step]:
        """As `advance`, by a strategy that `is_greedy`, with the most likely tokens for logits."""
        return self._noted(len(tokens_R), self.strategy.accept(tokens_R))

    def _noted(self, chosen: int, steps: list[Step]) -> list[Step]:
        self.tokens += chosen
        self.clock.last = time.perf_counter()
        if self.clock.first is None:
            self.clock.first = self.clock.last
        return steps

    def follow(self, steps: Sequence[Step], copy: Callable[[int, int], None]) -> list[int]:
        """Go on with the chosen steps; returns the slots that are not needed any more.

        A row's first child keeps its slot; its others get copies in slots that the request has to spare.
        """
        slots = [row.slot for row in self.rows]
        parents = [step.parent for step in steps]
        spare = [slot for slot in self.slots if slot not in {slots[parent] for parent in parents}]
        rows = []
        for i, step in enumerate(steps):
            slot = slots[step.parent]
            if step.parent in parents[:i]:
                target = spare.pop(0)
                copy(slot, target)
                slot = target
            rows.append(Row(slot=slot, step=step))
        self.rows = rows
        freed = []
        while spare and len(self.slots) > self.strategy.rows:
            self.slots.remove(spare[-1])
            freed.append(spare.pop())
        return freed

    def move(self, source: int, target: int) -> None:
        """Note that the row in the slot `source` has been copied into `target`."""
        self.slots[self.slots.index(source)] = target
        next(row for row in self.rows if row.slot == source).slot = target

    def results(self) -> list[Generation]:
        """The answers, best first; those of a request that is not done end where it stands.

        Raises:
            PumiceError: it failed.
        """
        if self.error is not None:
            raise self.error
        prompt = len(self.ids)
        images = self._image_tokens(0, prompt)
        return [
            Generation(
                text=answer.text,
                token_ids=answer.token_ids,
                finish_reason=answer.finish_reason,
                logprobs=answer.logprobs,
                usage=Usage(
                    prompt_tokens=prompt,
                    completion_tokens=len(answer.token_ids),
                    total_tokens=prompt + len(answer.token_ids),
                    image_tokens=images,
                    cached_tokens=self.cached_tokens,
                ),
                timings=self._timings(len(answer.token_ids)),
            )
            for answer in self.strategy.finish(cancelled=self.cancelled or not self.done)
        ]

    def _timings(self, tokens: int) -> Timings:
        clock = self.clock
        decode = clock.last - clock.first if clock.first is not None and clock.last is not None else 0.0
        return Timings(
            load=clock.load_s,
            preprocess=clock.preprocess_s,
            vision=clock.vision_s,
            prefill=clock.prefill_s,
            time_to_first_token=0.0 if clock.first is None else clock.first - clock.started,
            decode=decode,
            tokens_per_second=(tokens - 1) / decode if tokens > 1 and decode > 0 else 0.0,
        )


def as_pumice_error(error: BaseException) -> PumiceError:
    """A failure of one request as a typed error."""
    if isinstance(error, PumiceError):
        return error
    failure = GenerationError(f"the request failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
