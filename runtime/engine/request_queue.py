"""Who may come in: the bounded line of requests that have no slots yet, and all that are under way.

    enter ─▶ line ──next──▶ ready (being prepared, or prepared) ──admitted──▶ in slots ──leave──▶
             └───────────── queued, at most `limit` ──────────┘
                            └─ at most `ahead`, for their images take memory

For any thread. Locks are held for moments only, and may be taken again by the thread that has them: a stream that is
garbage collected cancels its request wherever that happens.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from pumice.engine.submission import Submission
from pumice.errors import EngineClosedError, QueueFullError


class RequestQueue:
    """Requests under way, in the order in which they came."""

    def __init__(self, *, limit: int, ahead: int) -> None:
        self._limit, self._ahead = limit, ahead
        self._changed = threading.Condition()
        self._line: dict[Submission, None] = {}
        self._ready: dict[Submission, None] = {}
        self._live: dict[Submission, None] = {}
        self._refusal: str | None = None

    @property
    def queued(self) -> int:
        """Requests without slots."""
        with self._changed:
            return len(self._line) + len(self._ready)

    @property
    def running(self) -> int:
        """Requests in slots."""
        with self._changed:
            return len(self._live) - len(self._line) - len(self._ready)

    @property
    def closed(self) -> bool:
        """Whether nobody is let in any more."""
        with self._changed:
            return self._refusal is not None

    @property
    def finished(self) -> bool:
        """Whether it is closed, and nobody is left."""
        with self._changed:
            return self._refusal is not None and not self._live

    def before(self, future: Future[Any]) -> int | None:
        """Requests without slots that came before the one of this future; None where that has slots, or has ended."""
        with self._changed:
            waiting = [each.future for each in (*self._ready, *self._line) if not each.future.done()]
        return waiting.index(future) if future in waiting else None

    def live(self) -> list[Submission]:
        """All requests under way."""
        with self._changed:
            return list(self._live)

    def check(self) -> None:
        """Raises what `enter` would raise."""
        with self._changed:
            if self._refusal is not None:
                raise EngineClosedError(self._refusal)
            queued = len(self._line) + len(self._ready)
            if queued >= self._limit:
                raise QueueFullError(
                    f"{queued} requests wait already, and max_queue is {self._limit}: try again later, "
                    "or make the engine with a larger max_queue"
                )

    def enter(self, submission: Submission) -> None:
        """Join the line.

        Raises:
            QueueFullError: as many wait as may.
            EngineClosedError: `close` was called.
        """
        with self._changed:
            self.check()
            self._line[submission] = self._live[submission] = None
            self._changed.notify_all()

    def next(self) -> Submission | None:
        """The next to prepare, for whom this waits; None once there will be no more."""
        with self._changed:
            while not self._line or len(self._ready) >= self._ahead:
                if self._refusal is not None and not self._line:
                    return None
                self._changed.wait()
            submission = next(iter(self._line))
            del self._line[submission]
            self._ready[submission] = None
            return submission

    def admitted(self, submission: Submission) -> None:
        """Note that a request has its slots."""
        with self._changed:
            if self._ready.pop(submission, self) is None:
                self._changed.notify_all()

    def leave(self, submission: Submission) -> bool:
        """Note that a request has ended; False if it had already."""
        with self._changed:
            for requests in (self._line, self._ready):
                requests.pop(submission, None)
            self._changed.notify_all()
            return self._live.pop(submission, self) is None

    def close(self, refusal: str) -> None:
        """Let nobody in from now on, for the reason given; the first stands."""
        with self._changed:
            if self._refusal is None:
                self._refusal = refusal
            self._changed.notify_all()
