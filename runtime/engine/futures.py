"""The thread that settles futures: callbacks run here, so that none of them holds up the others' tokens.

Enters: what came of a request. Leaves: a future that is done.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

from pumice.engine.metrics import MetricsRecorder, Outcome
from pumice.errors import PumiceError

_log = logging.getLogger("concurrent.futures")
"""Where futures log what their callbacks raise."""

_here = threading.local()


@contextmanager
def callbacks_guarded() -> Iterator[None]:
    """Within, this thread works for several requests: what a callback raises is logged, SystemExit and its like too."""
    before = getattr(_here, "guarded", False)
    _here.guarded = True
    try:
        yield
    finally:
        _here.guarded = before


class AnswerFuture(Future[Any]):
    """A future none of whose callbacks harms another's answer, or another callback, in a thread of the engine."""

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """As `Future.add_done_callback`."""
        super().add_done_callback(partial(_call, fn))


def _call(callback: Callable[[Future[Any]], object], future: Future[Any]) -> None:
    try:
        callback(future)
    except BaseException:
        if not getattr(_here, "guarded", False):
            raise  # of whoever cancels it, or asks after its end: `Future` decides
        _log.exception("exception calling callback for %r", future)


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """What came of a request: a value, an error, or neither where it was cancelled."""

    future: Future[Any]
    outcome: Outcome
    value: Any = None
    error: PumiceError | None = None


class Delivery:
    """Settles futures, first come, first served."""

    def __init__(self, tally: MetricsRecorder) -> None:
        self._tally = tally
        self._settlements: SimpleQueue[Settlement | None] = SimpleQueue()

    def put(self, settlement: Settlement) -> None:
        """Have a future settled soon. For any thread; returns at once."""
        self._settlements.put(settlement)

    def end(self) -> None:
        """Let `run` return once all is settled."""
        self._settlements.put(None)

    def run(self) -> None:
        """Settle until `end`."""
        with callbacks_guarded():
            while (settlement := self._settlements.get()) is not None:
                try:
                    self._settle(settlement)
                except (
                    BaseException
                ):  # of this future, with which somebody else has done what only the engine may
                    _log.exception("exception settling %r", settlement.future)
                del settlement  # or it would live until the next one comes

    def _settle(self, settlement: Settlement) -> None:
        future, error = settlement.future, settlement.error
        if settlement.value is None and error is None:
            future.cancel()
        if future.done() and not future.cancelled():
            return  # set by somebody else, who was not meant to
        # Until here the future was pending, so that cancelling it worked; from here on it does not.
        if not future.running() and not future.set_running_or_notify_cancel():
            self._tally.ended("cancelled")
            return
        self._tally.ended(settlement.outcome)
        if error is None:
            future.set_result(settlement.value)
        else:
            future.set_exception(without_traceback(error))


def without_traceback(error: PumiceError) -> PumiceError:
    """The error without the frames in which it was raised, for these hold prompts and images."""
    error.__traceback__ = None
    if error.__suppress_context__:
        error.__context__ = None
    return error
