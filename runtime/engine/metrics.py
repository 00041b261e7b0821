"""What an engine has done, in numbers whose memory does not grow.

Enters: events. Leaves: frozen snapshots, named and bucketed as Prometheus would have them.
"""

from __future__ import annotations

import dataclasses
import threading
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["finished", "cancelled", "failed", "expired"]

FIRST_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds."""

BETWEEN_TOKENS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many values were at most each of `bounds`: `counts[i]` are those in (bounds[i-1], bounds[i]].

    The last of `counts`, one more than there are bounds, are those above all of them.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """All values."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Their mean, 0 where there are none."""
        return self.sum / self.count if self.count else 0.0

    def __add__(self, other: Histogram) -> Histogram:
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Histogram(bounds=self.bounds, counts=counts, sum=self.sum + other.sum)


@dataclass(frozen=True, kw_only=True)
class EngineCounters:
    """An engine at a moment; all but the first four only ever grow.

    Of the requests accepted, `queued` wait for slots or are being prepared and `running` have their slots; the others
    are `finished`, `cancelled`, `failed` or `expired` (their deadline passed). `refused` found the queue full. Prompt
    tokens count when a request gets its slots: `reused_prompt_tokens` of them were prefix hits.

    `time_to_first_token_seconds` runs from `submit`. `time_between_tokens_seconds` is between a request's steps:
    tokens that come at once (several answers, or accepted drafts) count as one.
    """

    queued: int
    running: int
    slots: int
    slots_in_use: int
    finished: int
    cancelled: int
    failed: int
    expired: int
    refused: int
    prompt_tokens: int
    reused_prompt_tokens: int
    generated_tokens: int
    time_to_first_token_seconds: Histogram
    time_between_tokens_seconds: Histogram

    def __add__(self, other: EngineCounters) -> EngineCounters:
        """What both have done, where `self` was before `other`, whose slots count."""
        names = [each.name for each in dataclasses.fields(self) if each.name not in _OF_NOW]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return dataclasses.replace(other, **sums)


_OF_NOW = ("queued", "running", "slots", "slots_in_use")
"""Those of an engine's counters that do not only grow."""


class Buckets:
    """A histogram that is being filled."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def snapshot(self) -> Histogram:
        """As it is now."""
        return Histogram(bounds=self._bounds, counts=tuple(self._counts), sum=self._sum)


class MetricsRecorder:
    """Counters that are being filled, by any thread."""

    def __init__(self, slots: int) -> None:
        self._lock = threading.RLock()
        self._slots, self._slots_in_use, self._refused = slots, 0, 0
        self._outcomes: dict[Outcome, int] = dict.fromkeys(("finished", "cancelled", "failed", "expired"), 0)
        self._prompt = self._reused = self._generated = 0
        self._first = Buckets(FIRST_TOKEN_BOUNDS)
        self._between = Buckets(BETWEEN_TOKENS_BOUNDS)

    def refused(self) -> None:
        """A request found the queue full."""
        with self._lock:
            self._refused += 1

    def ended(self, outcome: Outcome) -> None:
        """A request has ended."""
        with self._lock:
            self._outcomes[outcome] += 1

    def use(self, slots: int) -> None:
        """So many slots are in use now."""
        self._slots_in_use = slots

    def admitted(self, prompt_tokens: int, reused: int) -> None:
        """A request got its slots."""
        with self._lock:
            self._prompt += prompt_tokens
            self._reused += reused

    def generated(self, tokens: int, *, first: float | None = None, between: float | None = None) -> None:
        """A request got tokens, so many seconds after it was submitted or after those before."""
        with self._lock:
            self._generated += tokens
            if first is not None:
                self._first.add(first)
            if between is not None:
                self._between.add(between)

    def snapshot(self, *, queued: int, running: int) -> EngineCounters:
        """As they are now."""
        with self._lock:
            return EngineCounters(
                queued=queued,
                running=running,
                slots=self._slots,
                slots_in_use=self._slots_in_use,
                **self._outcomes,
                refused=self._refused,
                prompt_tokens=self._prompt,
                reused_prompt_tokens=self._reused,
                generated_tokens=self._generated,
                time_to_first_token_seconds=self._first.snapshot(),
                time_between_tokens_seconds=self._between.snapshot(),
            )
