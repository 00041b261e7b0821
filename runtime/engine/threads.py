"""An engine's three threads, from the first request to the last.

Enters: what the threads work with. Leaves: no thread, once it is closed.

The threads know nothing of the `Engine` in front of them, so that one which nobody holds any more is collected: then
what was accepted is finished, and the threads end. At the interpreter's exit what is under way is cancelled.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref

from pumice.engine.futures import Delivery, callbacks_guarded
from pumice.engine.metrics import MetricsRecorder
from pumice.engine.prepare import Preparation
from pumice.engine.request_queue import RequestQueue
from pumice.engine.step_loop import StepLoop
from pumice.pipeline import Pipeline

_EXIT_SECONDS = 10.0
"""How long the interpreter's exit waits for a run of ONNX Runtime to end."""


class EngineThreads:
    """Threads that prepare, compute and deliver."""

    def __init__(self, pipeline: Pipeline, *, slots: int, context: int, max_queue: int) -> None:
        """Make room for `slots` sequences of `context` tokens.

        Raises:
            InsufficientMemoryError: there is not so much memory.
        """
        scheduler = pipeline.scheduler(pipeline.decoder.new_cache(context, slots))
        self.tally = MetricsRecorder(slots)
        self.request_queue = RequestQueue(limit=max_queue, ahead=slots)
        delivery = Delivery(self.tally)
        self.step_loop = StepLoop(scheduler, slots, self.request_queue, self.tally, delivery)
        preparation = Preparation(pipeline, context, self.request_queue, self.step_loop)
        self._pid = os.getpid()
        works = {"step": self.step_loop.run, "prepare": preparation.run, "deliver": delivery.run}
        self._threads = [
            threading.Thread(target=run, name=f"pumice-engine-{work}", daemon=True)
            for work, run in works.items()
        ]
        for thread in self._threads:
            thread.start()
        _CREWS.add(self)

    @property
    def here(self) -> bool:
        """Whether this is the process that the threads run in, not a fork of it."""
        return os.getpid() == self._pid

    @property
    def alive(self) -> bool:
        """Whether all threads run, and requests are taken."""
        return not self.request_queue.closed and all(thread.is_alive() for thread in self._threads)

    def retire(self) -> None:
        """Take no more requests; the threads end once those accepted are served. Returns at once."""
        if self.here:
            self.request_queue.close("the engine is closed: make another one")
            self.step_loop.wake()

    def abort(self) -> None:
        """Cancel all requests under way. Returns at once."""
        self.retire()
        with callbacks_guarded():
            for submission in self.request_queue.live():
                submission.future.cancel()
                self.step_loop.cancel(submission)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the threads to end; whether they have. A thread of the crew's own does not wait for itself."""
        if not self.here:
            return True
        end = None if timeout is None else time.monotonic() + timeout
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in others:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in others)


_CREWS: weakref.WeakSet[EngineThreads] = weakref.WeakSet()
"""All whose engines, or threads, are there still."""


@atexit.register
def _abort_all() -> None:
    """A thread inside ONNX Runtime while the interpreter goes away may take the process with it."""
    crews = list(_CREWS)
    for crew in crews:
        if crew.here:
            crew.abort()
    for crew in crews:
        crew.join(_EXIT_SECONDS)
