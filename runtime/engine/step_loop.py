"""The step thread: the only one that touches the scheduler.

Enters: mail from other threads (a job is ready, a request is cancelled), in a queue. Leaves: text to sinks, and
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
from pumice.engine.metrics import Outcome, Tally
from pumice.engine.request_queue import Admission
from pumice.engine.submission import Request, typed
from pumice.errors import DeadlineError, EngineClosedError, PumiceError
from pumice.scheduler.scheduler import Scheduler

_log = logging.getLogger("pumice.engine")


@dataclass(kw_only=True)
class _Progress:
    """What was seen of a job so far."""

    admitted: bool = False
    tokens: int = 0
    last: float = 0.0


class Stepper:
    """Moves the scheduler on for as long as there is work, and tells what came of it.

    Mail may be written by any thread, also from within a destructor; everything else is the step thread's own.
    """

    def __init__(
        self, scheduler: Scheduler, slots: int, admission: Admission, tally: Tally, delivery: Delivery
    ) -> None:
        self._scheduler, self._slots = scheduler, slots
        self._admission, self._tally, self._delivery = admission, tally, delivery
        self._mail: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._jobs: dict[Request, _Progress] = {}
        """What the scheduler has."""
        self._timed: dict[Request, float] = {}
        self._next_deadline = float("inf")
        """Not later than the earliest of `_timed`."""
        self._busy = False

    def wake(self) -> None:
        """Let the step thread look whether the engine was closed."""
        self._mail.put(lambda: None)

    def expect(self, request: Request) -> None:
        """A request with a deadline has come in."""
        self._mail.put(partial(self._expect, request))

    def prepared(self, request: Request) -> None:
        """A request's job is ready."""
        self._mail.put(partial(self._add, request))

    def failed(self, request: Request, error: PumiceError) -> None:
        """A request's job cannot be made."""
        self._mail.put(partial(self._settle, request, "failed", error=error))

    def cancel(self, request: Request) -> None:
        """End a request: with what it has said so far, unless its future was cancelled."""
        request.stop()
        self._mail.put(partial(self._cancel, request))

    def run(self) -> None:
        """Work until the engine is closed and nobody is left."""
        try:
            while not self._admission.finished:
                self._read_mail()
                self._expire()
                if self._busy:
                    self._step()
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

    def _expect(self, request: Request) -> None:
        if request.deadline is not None and not request.ended:
            self._timed[request] = request.deadline.at
            self._next_deadline = min(self._next_deadline, request.deadline.at)

    def _add(self, request: Request) -> None:
        if request.job is None:  # it has ended meanwhile
            return
        self._jobs[request] = _Progress()
        self._scheduler.add(request.job)
        self._busy = True

    def _cancel(self, request: Request) -> None:
        if request in self._jobs and request.job is not None:
            self._scheduler.cancel(request.job)
            self._count_slots()
            self._look(request)
        else:
            self._settle(request, "cancelled")

    def _expire(self) -> None:
        """End requests whose deadlines have passed."""
        now = time.monotonic()
        if now < self._next_deadline:
            return
        for request in [request for request, at in self._timed.items() if at <= now]:
            seconds = request.deadline.seconds if request.deadline is not None else 0.0
            error = DeadlineError(
                f"the deadline of {seconds:g} s passed {self._whereabouts(request)}: "
                "allow more time, or ask for fewer tokens"
            )
            self._settle(request, "expired", error=error)
        self._next_deadline = min(self._timed.values(), default=float("inf"))

    def _whereabouts(self, request: Request) -> str:
        progress, job = self._jobs.get(request), request.job
        if progress is None or job is None:
            return "before the request was prepared"
        if not progress.admitted:
            return "while the request waited for a slot"
        return f"after {job.tokens} generated tokens"

    def _step(self) -> None:
        self._busy = self._scheduler.step()
        self._count_slots()
        for request in list(self._jobs):
            self._look(request)

    def _count_slots(self) -> None:
        self._tally.use(self._slots - self._scheduler.free_slots)

    def _look(self, request: Request) -> None:
        """Pass on what has come of a request."""
        job, progress = request.job, self._jobs[request]
        assert job is not None
        try:
            self._note(request, progress)
            if request.sink is not None and (text := job.strategy.take_text()):
                request.sink(text)
            if not job.done:
                return
            results: list[Any] = job.results()
        except Exception as error:
            self._settle(request, "failed", error=typed(error))
        else:
            value = results if request.several else results[0]
            self._settle(request, "cancelled" if job.cancelled else "finished", value=value)

    def _note(self, request: Request, progress: _Progress) -> None:
        """Count what is new."""
        job = request.job
        assert job is not None
        if not progress.admitted and (job.slots or job.tokens):
            progress.admitted = True
            self._admission.admitted(request)
            self._tally.admitted(len(job.ids), job.reused)
        if job.tokens > progress.tokens and job.clock.last is not None:
            if progress.tokens:
                self._tally.generated(job.tokens - progress.tokens, between=job.clock.last - progress.last)
            else:
                first = (job.clock.first or job.clock.last) - request.started
                self._tally.generated(job.tokens, first=first)
            progress.tokens, progress.last = job.tokens, job.clock.last

    def _settle(
        self, request: Request, outcome: Outcome, *, value: Any = None, error: PumiceError | None = None
    ) -> None:
        """End a request, once."""
        self._timed.pop(request, None)
        if self._jobs.pop(request, None) is not None and request.job is not None and not request.job.done:
            self._scheduler.cancel(request.job)
            self._count_slots()
        if self._admission.leave(request):
            self._delivery.put(Settlement(future=request.future, outcome=outcome, value=value, error=error))
        request.end()

    def _give_up(self, error: BaseException) -> None:
        """The scheduler failed as a whole: nobody can be served any more."""
        _log.error("the engine failed: %s", type(error).__name__)
        reason = f"the engine failed: {type(error).__name__}: {error}"
        self._admission.close(f"{reason}: make another one")
        self._jobs.clear()
        for request in self._admission.live():
            failure = EngineClosedError(reason)
            failure.__cause__ = error
            self._settle(request, "failed", error=failure)
