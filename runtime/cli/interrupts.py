"""Ctrl-C: a KeyboardInterrupt that gets through, whatever it comes upon.

Enters: SIGINT while a command runs. Leaves: KeyboardInterrupt in the main thread, again and again until the command has
ended; and whether there was one, so that what others make of it (`ImportError: initialization failed`, an error of a
tracer's) is known for what it is.

Whoever swallows it (`except ImportError` around a module that was being initialised, a finaliser) delays it for a
moment; whoever handles it, and puts things back meanwhile, is left in peace.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

_AGAIN_S = 0.25


class Interrupts:
    """Those of one command."""

    def __init__(self) -> None:
        self.asked = False
        self._repeated = self._ended = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Take SIGINT, and silence what Python says of interrupts that it must drop."""
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._drop
        signal.signal(signal.SIGINT, self._raise)

    def end(self) -> None:
        """Give SIGINT back; none of ours comes afterwards."""
        self._ended = True
        with self._lock:  # one that is being sent arrives here at the latest
            pass
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = self._hook

    def _raise(self, _number: int, _frame: object) -> None:
        repeated, self._repeated = self._repeated, False
        if repeated and (self._ended or _is_handled(sys.exc_info()[1])):
            return
        if not self.asked:
            self.asked = True
            # Not by `threading`: the lock that its threads start under may be held where the signal came.
            _thread.start_new_thread(self._insist, ())
        raise KeyboardInterrupt

    def _insist(self) -> None:
        while True:
            time.sleep(_AGAIN_S)
            with self._lock:
                if self._ended:
                    return
                self._repeated = True
                _interrupt_main()

    def _drop(self, unraisable: Any) -> None:
        if not self.asked:
            self._hook(unraisable)


def _interrupt_main() -> None:
    """As Ctrl-C does it, so that what sleeps or reads wakes up."""
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _is_handled(error: BaseException | None) -> bool:
    """Whether an interrupt is among the exceptions that are being handled."""
    for _ in range(100):
        if error is None or isinstance(error, KeyboardInterrupt):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt)


@contextlib.contextmanager
def insisting() -> Iterator[Interrupts]:
    """Interrupts that get through, in the main thread, and unless somebody else takes or ignores SIGINT."""
    interrupts = Interrupts()
    if not _is_ours():
        yield interrupts
        return
    interrupts.begin()
    try:
        yield interrupts
    finally:
        interrupts.end()


@contextlib.contextmanager
def handled_inside() -> Iterator[None]:
    """KeyboardInterrupt as Python has it, once for each Ctrl-C: for whoever handles it and goes on."""
    before = signal.getsignal(signal.SIGINT)
    if not isinstance(getattr(before, "__self__", None), Interrupts):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_at_once() -> None:
    """From now on Ctrl-C ends the process: all that is left is taking it apart."""
    if _is_ours():
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))


def _is_ours() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
