"""Runs of ONNX Runtime that can be ended from outside: by another thread, or by Ctrl-C.

Enters: a session and what it runs on. Leaves: its outputs; or a typed failure.

ONNX Runtime looks at `RunOptions.terminate` between two operators, so a run ends within one of them. A signal's handler
must wait until Python runs again, so what may take long is run by another thread, for which the main thread waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import onnxruntime
from numpy.typing import NDArray

from pumice.errors import GenerationError

T = TypeVar("T")

NOT_RECORDED = "-1"
"""The `gpu_graph_id` of runs that are not for a CUDA graph; sessions without such graphs do not look at it."""

_LOOK = 0.1
"""Seconds after which a waiting thread looks for signals: one that comes just before it waits does not wake it."""


class Worker:
    """A thread that runs one thing after another; it ends with the process.

    Always the same thread, because a GPU's libraries keep handles and buffers for each one that runs a graph.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="pumice-run", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False in a process that was forked from the one that made it."""
        return self._thread.is_alive()

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work`, which must not raise, behind all that was submitted."""
        self._queue.put(work)

    def _run(self) -> None:
        while True:
            work = self._queue.get()
            work()
            del work  # what it holds is not kept while nothing runs


_workers: list[Worker] = []


def _worker() -> Worker:
    """The main thread's."""
    if not _workers or not _workers[0].alive:
        _workers[:] = [Worker()]
    return _workers[0]


class RunCancelledError(Exception):
    """A run was ended by `Cancellation.set`; never leaves pumice."""


class Cancellation:
    """Ends the runs that are given it: the one under way and those to come. May be set by any thread."""

    def __init__(self) -> None:
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", NOT_RECORDED)
        self._set = False

    def set(self) -> None:
        """End the runs."""
        self._set = True
        self._options.terminate = True

    @property
    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._set

    def run(self, session: Any, feeds: dict[str, NDArray[Any]], outputs: list[str]) -> list[Any]:
        """`session.run`, which may take long.

        Raises:
            RunCancelledError: it was ended.
            GenerationError: a failure in ONNX Runtime.
        """
        results: list[Any] = self._guarded(lambda: session.run(outputs, feeds, self._options))
        return results

    def run_bound(self, session: Any, binding: Any) -> None:
        """`session.run_with_iobinding`, which may take long. Raises as `run`."""
        self._guarded(lambda: session.run_with_iobinding(binding, self._options))

    def _guarded(self, run: Callable[[], T]) -> T:
        if self._set:
            raise RunCancelledError
        try:
            if threading.current_thread() is threading.main_thread():
                return self._watched(run)
            return run()
        except Exception as error:  # ONNX Runtime has no public root of its exceptions
            if self._set:
                raise RunCancelledError from None
            raise failure(error) from None

    def _watched(self, run: Callable[[], T]) -> T:
        """Run in the worker's thread, and end it where a signal's handler raises in this one."""
        results: list[T] = []
        errors: list[BaseException] = []
        begun, done = threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            try:
                if not self._set:
                    results.append(run())
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()

        try:
            _worker().submit(work)
            # An event, as an interrupted Thread.join takes the thread for ended, up to Python 3.12.
            while not done.wait(_LOOK):
                pass
        except BaseException:  # Ctrl-C
            self.set()
            while begun.is_set() and not done.is_set():  # what it writes to must stay until it has ended
                with contextlib.suppress(KeyboardInterrupt):
                    done.wait(_LOOK)
            raise
        if errors:
            raise errors[0]
        if not results:
            raise RunCancelledError
        return results[0]


def run(session: Any, feeds: dict[str, NDArray[Any]], outputs: list[str]) -> list[Any]:
    """`session.run`, for runs that are short.

    Raises:
        GenerationError: a failure in ONNX Runtime.
    """
    try:
        results: list[Any] = session.run(outputs, feeds)
    except Exception as error:  # ONNX Runtime has no public root of its exceptions
        raise failure(error) from None
    return results


def run_bound(session: Any, binding: Any, options: Any = None) -> None:
    """`session.run_with_iobinding`, for runs that are short. Raises as `run`."""
    try:
        session.run_with_iobinding(binding, options)
    except Exception as error:  # ONNX Runtime has no public root of its exceptions
        raise failure(error) from None


def failure(error: Exception) -> GenerationError:
    """ONNX Runtime's exception as ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return GenerationError(f"ONNX Runtime failed: {lines[0][:300]}")
