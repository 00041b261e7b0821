"""A request under way: what it reads, how it is continued, where it is, and what came of it.

Enters: a prepared prompt and a strategy. Leaves: text as it becomes final, and the `Generation` objects in the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pumice.decoder.prefix_keys import Key
from pumice.errors import PumiceError
from pumice.generation.strategy import Step, Strategy
from pumice.result import Generation, Timings, Usage
from pumice.sessions.arrays import Rows
from pumice.sessions.runs import Cancellation
from pumice.vision.features import PromptFeatures

State = Literal["waiting", "prefill", "decode", "finished"]


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
    """A sequence of a request that goes on: its slot of the cache, and the token that is read there next."""

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
        self.state: State = "waiting"
        self.error: PumiceError | None = None
        self.cancelled = False
        self.slots: list[int] = []
        """Slots of the cache that are this request's, those of `rows` among them."""
        self.rows: list[Row] = []
        self.cached_tokens = 0
        """Positions of the prompt that did not have to be read."""
        self.tokens = 0
        """Tokens generated so far, of all rows."""
        self.remaining_features: Rows | None = None
        """Features of the image tokens that are not read yet; None until they are asked for."""

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state == "finished"

    def advance(self, logits_RV: Sequence[NDArray[np.float32]]) -> list[Step]:
        """Let the strategy choose; notes the time."""
        chosen = (
            self.strategy.rows if self.clock.first is None else len(logits_RV)
        )  # all begin with the prompt
        return self._noted(chosen, self.strategy.advance(logits_RV))

    def accept(self, tokens_R: Sequence[int]) -> list[Step]:
        """As `advance`, by a strategy that `is_greedy`, with the likeliest tokens for logits."""
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

    def results(self) -> list[Generation]:
        """The answers, best first; those of a request that is not done end where it stands.

        Raises:
            PumiceError: it failed.
        """
        if self.error is not None:
            raise self.error
        prompt = len(self.ids)
        images = sum(isinstance(key, bytes) for key in self.keys)
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
