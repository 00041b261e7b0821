"""The thread that runs what may take long. Ctrl-C itself is tested where it is pressed."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from types import SimpleNamespace

import pytest

from pumice.errors import GenerationError
from pumice.sessions.runs import Cancellation, RunCancelledError


def in_session(call: object) -> SimpleNamespace:
    """A session whose run is that call."""
    return SimpleNamespace(run_with_iobinding=call)


def test_runs_of_the_main_thread_have_one_thread() -> None:
    """A GPU's libraries keep handles and buffers for each thread that runs a graph."""
    seen: list[int] = []
    for _ in range(5):
        session = in_session(lambda *_: seen.append(threading.get_ident()))
        Cancellation().run_bound(session, None)
    assert len(seen) == 5
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


def test_the_thread_outlives_failures_and_cancelled_runs() -> None:
    cancelled = Cancellation()
    cancelled.set()
    with pytest.raises(RunCancelledError):
        cancelled.run_bound(in_session(lambda *_: pytest.fail("it ran")), None)

    def fail(*_: object) -> None:
        raise ValueError("a reason\nand more")

    with pytest.raises(GenerationError, match=r"ONNX Runtime failed: a reason$"):
        Cancellation().run_bound(in_session(fail), None)
    done: list[int] = []
    Cancellation().run_bound(in_session(lambda *_: done.append(1)), None)
    assert done == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_process_gets_a_thread_of_its_own() -> None:
    Cancellation().run_bound(in_session(lambda *_: None), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads, which is the point
        child = os.fork()
    if not child:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        Cancellation().run_bound(in_session(lambda *_: None), None)
        os._exit(7)
    for _ in range(6000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 7
            return
        threading.Event().wait(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child waits for a thread that it does not have")
