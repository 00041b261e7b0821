"""The step thread: the only one that touches the scheduler.

Enters: mail from other threads (a request is ready, a request is cancelled), in a queue. Leaves: text to sinks, and
settlements to the delivery. It sleeps while there is neither work nor mail.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from pumice.engine.futures import Delivery, Settlement
from pumice.engine.metrics import MetricsRecorder, Outcome
from pumice.engine.request_queue import RequestQueue
from pumice.engine.submission import Submission
from pumice.errors import DeadlineError, EngineClosedError, PumiceError
from pumice.scheduler.request import as_pumice_error
from pumice.scheduler.scheduler import Scheduler

_log = logging.getLogger("pumice.engine")


@dataclass(kw_only=True)
class _Progress:
    """What was seen of a request so far."""

    admitted: bool = False
    tokens: int = 0
    last: float = 0.0


class StepLoop:
    """Moves the scheduler on for as long as there is work, and tells what came of it.

    Mail may be written by any thread, also from within a destructor; everything else is the step thread's own.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        slots: int,
        request_queue: RequestQueue,
        tally: MetricsRecorder,
        delivery: Delivery,
    ) -> None:
        self._scheduler, self._slots = scheduler, slots
        self._request_queue, self._tally, self._delivery = request_queue, tally, delivery
        self._mail: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._requests: dict[Submission, _Progress] = {}
        """What the scheduler has."""
        self._timed: dict[Submission, float] = {}
        self._next_deadline = float("inf")
        """Not later than the earliest of `_timed`."""
        self._busy = False
        self._stepping: float | None = None

    @property
    def stalled_s(self) -> float:
        """Seconds that the step under way has taken so far; 0 where there is nothing to do."""
        since = self._stepping
        return 0.0 if since is None else time.monotonic() - since

    def wake(self) -> None:
        """Let the step thread look whether the engine was closed."""
        self._mail.put(lambda: None)

    def expect(self, submission: Submission) -> None:
        """A request with a deadline has come in."""
        self._mail.put(partial(self._expect, submission))

    def prepared(self, submission: Submission) -> None:
        """A request's request is ready."""
        self._mail.put(partial(self._add, submission))

    def failed(self, submission: Submission, error: PumiceError) -> None:
        """A request's request cannot be made."""
        self._mail.put(partial(self._settle, submission, "failed", error=error))

    def cancel(self, submission: Submission) -> None:
        """End a request: with what it has said so far, unless its future was cancelled."""
        submission.stop()
        self._mail.put(partial(self._cancel, submission))

    def run(self) -> None:
        """Work until the engine is closed and nobody is left."""
        try:
            while not self._request_queue.finished:
                self._read_mail()
                self._expire()
                if self._busy:
                    self._stepping = time.monotonic()
                    self._step()
                    self._stepping = None
        except BaseException as error:
            self._give_up(error)
        finally:
            del self._scheduler  # its cache is large, and people may keep a closed engine
            self._delivery.end()

    def _read_mail(self) -> None:
        """All there is; where there is nothing to do, wait for it."""
        timeout: float | None = 0.0
        if not self._busy:
            soon = self._next_deadline - time.monotonic()
            timeout = None if soon == float("inf") else max(0.0, min(soon, 3600.0))
        with suppress(Empty):
            self._mail.get(timeout=timeout)()
            while True:
                self._mail.get_nowait()()

    def _expect(self, submission: Submission) -> None:
        if submission.deadline is not None and not submission.ended:
            self._timed[submission] = submission.deadline.at
            self._next_deadline = min(self._next_deadline, submission.deadline.at)

    def _add(self, submission: Submission) -> None:
        if submission.request is None:  # it has ended meanwhile
            return
        self._requests[submission] = _Progress()
        self._scheduler.add(submission.request)
        self._busy = True

    def _cancel(self, submission: Submission) -> None:
        if submission in self._requests and submission.request is not None:
            self._scheduler.cancel(submission.request)
            self._count_slots()
            self._look(submission)
        else:
            self._settle(submission, "cancelled")

    def _expire(self) -> None:
        """End requests whose deadlines have passed."""
        now = time.monotonic()
        if now < self._next_deadline:
            return
        for submission in [submission for submission, at in self._timed.items() if at <= now]:
            seconds = submission.deadline.seconds if submission.deadline is not None else 0.0
            error = DeadlineError(
                f"the deadline of {seconds:g} s passed {self._whereabouts(submission)}: "
                "allow more time, or ask for fewer tokens"
            )
            self._settle(submission, "expired", error=error)
        self._next_deadline = min(self._timed.values(), default=float("inf"))

    def _whereabouts(self, submission: Submission) -> str:
        progress, request = self._requests.get(submission), submission.request
        if progress is None or request is None:
            return "before the request was prepared"
        if not progress.admitted:
            return "while the request waited for a slot"
        return f"after {request.tokens} generated tokens"

    def _step(self) -> None:
        self._busy = self._scheduler.step()
        self._count_slots()
        for submission in list(self._requests):
            self._look(submission)

    def _count_slots(self) -> None:
        self._tally.use(self._slots - self._scheduler.free_slots)

    def _look(self, submission: Submission) -> None:
        """Pass on what has come of a request."""
        request, progress = submission.request, self._requests[submission]
        assert request is not None
        try:
            self._note(submission, progress)
            if submission.sink is not None and (text := request.strategy.take_text()):
                submission.sink(text)
            if submission.follower is not None and (pieces := request.strategy.take_pieces()):
                submission.follower(pieces)
            if not request.done:
                return
            results: list[Any] = request.results()
        except Exception as error:
            self._settle(submission, "failed", error=as_pumice_error(error))
        else:
            value = results if submission.several else results[0]
            self._settle(submission, "cancelled" if request.cancelled else "finished", value=value)

    def _note(self, submission: Submission, progress: _Progress) -> None:
        """Count what is new."""
        request = submission.request
        assert request is not None
        if not progress.admitted and (request.slots or request.tokens):
            progress.admitted = True
            self._request_queue.admitted(submission)
            self._tally.admitted(len(request.ids), request.cached_tokens)
        if request.tokens > progress.tokens and request.clock.last is not None:
            if progress.tokens:
                self._tally.generated(
                    request.tokens - progress.tokens, between=request.clock.last - progress.last
                )
            else:
                first = (request.clock.first or request.clock.last) - submission.started
                self._tally.generated(request.tokens, first=first)
            progress.tokens, progress.last = request.tokens, request.clock.last

    def _settle(
        self, submission: Submission, outcome: Outcome, *, value: Any = None, error: PumiceError | None = None
    ) -> None:
        """End a request, once."""
        self._timed.pop(submission, None)
        request = submission.request
        if self._requests.pop(submission, None) is not None and request is not None and not request.done:
            self._scheduler.cancel(request)
            self._count_slots()
        if self._request_queue.leave(submission):
            self._delivery.put(
                Settlement(future=submission.future, outcome=outcome, value=value, error=error)
            )
        submission.end()

    def _give_up(self, error: BaseException) -> None:
        """The scheduler failed as a whole: nobody can be served any more."""
        _log.error("the engine failed: %s", type(error).__name__)
        reason = f"the engine failed: {type(error).__name__}: {error}"
        self._request_queue.close(f"{reason}: make another one")
        self._requests.clear()
        for submission in self._request_queue.live():
            failure = EngineClosedError(reason)
            failure.__cause__ = error
            self._settle(submission, "failed", error=failure)
