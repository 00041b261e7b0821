"""Something that a thread makes while what is ready is used already.

Enters: what makes it. Leaves: what was made, to whoever waits for it; or the error that came instead, to each of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

T = TypeVar("T")

_LOOK = 0.05
"""Seconds after which a thread that waits looks whether it is to go on waiting."""


class Later(Generic[T]):
    """What `make` makes, once, in a thread of its own, from `start` on or when it is first asked for."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: Future[T] = Future()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, value: T) -> Later[T]:
        """What is made already."""
        later = cls(lambda: value)
        later._made.set_result(value)
        return later

    def start(self) -> None:
        """Begin to make it, if nobody has; a forked process has none of its parent's threads, and begins anew."""
        with self._lock:
            begun = self._thread is not None and self._thread.is_alive()
            if not begun and not self._made.done():
                self._thread = threading.Thread(target=self._run, name="pumice-open")
                self._thread.start()

    def _run(self) -> None:
        try:
            self._made.set_result(self._make())
        except BaseException as error:  # whoever asks is told
            self._made.set_exception(error)

    def result(self, ended: Callable[[], bool] = lambda: False) -> T | None:
        """Wait for it; None where it is `ended` meanwhile. Raises what making it raised."""
        self.start()
        while not self._made.done():
            if ended():
                return None
            wait([self._made], _LOOK)
        return self._made.result()

    def settle(self) -> None:
        """Wait until nothing is being made: made, failed, or never begun."""
        thread = self._thread
        if thread is not None:
            thread.join()
