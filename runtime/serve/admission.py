"""Who may come in: a bounded number of requests, and of their bytes, counted before anything of them is read.

Enters: requests, and how long answers took. Leaves: places, or a refusal that says when to try again.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from pumice.result import Generation
from pumice.serve.refusals import RefusalError, queue_full

_REMEMBERED = 64
"""Answers of which the mean is taken."""
_LONGEST_S = 60
"""OpenAI's clients give up at once where they are to wait for more than two minutes."""


class Admission:
    """Places for `slots` that are answered and `waiting` others; `most_bytes` of their bodies. For one event loop."""

    def __init__(self, slots: int, waiting: int, most_bytes: int) -> None:
        self._slots, self._limit, self._most_bytes = slots, slots + waiting, most_bytes
        self._taken = self._bytes = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._service_s: deque[float] = deque(maxlen=_REMEMBERED)
        self.refused = 0

    @property
    def taken(self) -> int:
        """Requests that are there."""
        return self._taken

    @property
    def retry_after_s(self) -> int:
        """Seconds until one that waits has a slot, by what answers have taken."""
        waiting = max(0, self._taken - self._slots)
        mean = sum(self._service_s) / len(self._service_s) if self._service_s else 1.0
        return min(_LONGEST_S, max(1, math.ceil((waiting + 1) * mean / self._slots)))

    async def empty(self) -> None:
        """Wait until there is no request."""
        await self._empty.wait()

    @contextmanager
    def place(self, nbytes: int) -> Iterator[Place]:
        """A place for a request of so many bytes, for as long as it takes.

        Raises:
            RefusalError: there is none.
        """
        if self._taken >= self._limit:
            raise self._full()
        place = Place(self)
        place.take(nbytes)
        self._taken += 1
        self._empty.clear()
        try:
            yield place
        finally:
            self._taken -= 1
            self._bytes -= place.nbytes
            if not self._taken:
                self._empty.set()

    def hold(self, nbytes: int) -> None:
        """Count bytes that a request has from now on.

        Raises:
            RefusalError: there is no room for them beside others.
        """
        if self._bytes and self._bytes + nbytes > self._most_bytes:
            raise self._full()
        self._bytes += nbytes

    def _full(self) -> RefusalError:
        self.refused += 1
        return queue_full(self.retry_after_s)

    def served(self, results: list[Generation]) -> None:
        """Note how long a request had its slots."""
        timings = results[0].timings
        longest = max(result.timings.decode for result in results)
        self._service_s.append(timings.preprocess + timings.vision + timings.prefill + longest)


class Place:
    """A request's place: `nbytes` are what it holds."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.nbytes = 0

    def take(self, nbytes: int) -> None:
        """Hold more bytes. Raises `RefusalError` where there is no room for them."""
        self._admission.hold(nbytes)
        self.nbytes += nbytes
