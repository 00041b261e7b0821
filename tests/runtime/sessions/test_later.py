"""What a thread makes is made once, given to all who wait, and its failure told to each of them."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pumice.errors import BundleError
from pumice.sessions.later import Later


class Making:
    """Makes something when it is let go on, and counts."""

    def __init__(self, outcome: object = "made") -> None:
        self.outcome, self.times = outcome, 0
        self.go_on = threading.Event()

    def __call__(self) -> object:
        self.times += 1
        assert self.go_on.wait(60)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def test_all_who_ask_wait_for_the_one_making() -> None:
    making = Making()
    later = Later(making)
    later.start()
    later.start()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(later.result) for _ in range(4)]
        assert not any(each.done() for each in asked)
        making.go_on.set()
        assert [each.result(60) for each in asked] == ["made"] * 4
    assert making.times == 1


def test_nothing_is_made_before_it_is_asked_for() -> None:
    making = Making()
    making.go_on.set()
    later = Later(making)
    later.settle()
    assert making.times == 0
    assert later.result() == "made"


@pytest.mark.parametrize("error", [BundleError("refused"), TimeoutError("of making")])
def test_a_failure_is_told_to_each_who_asks(error: Exception) -> None:
    making = Making(error)
    making.go_on.set()
    later = Later(making)
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            later.result()
    assert making.times == 1


def test_who_is_ended_waits_no_longer_and_others_do() -> None:
    making = Making()
    later = Later(making)
    assert later.result(lambda: making.times == 1) is None
    making.go_on.set()
    assert later.result() == "made"


def test_settling_leaves_no_thread() -> None:
    making = Making(BundleError("refused"))
    later, before = Later(making), set(threading.enumerate())
    later.start()
    (thread,) = set(threading.enumerate()) - before
    making.go_on.set()
    later.settle()
    assert not thread.is_alive()


def test_what_is_there_needs_no_thread() -> None:
    before = set(threading.enumerate())
    assert Later.of(3).result() == 3
    assert set(threading.enumerate()) <= before


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="of Linux")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_makes_its_own() -> None:
    """The thread that makes it is of the parent alone."""
    making = Making()
    later = Later(making)
    later.start()
    child = os.fork()
    if child == 0:
        making.go_on.set()
        os._exit(7 if later.result() == "made" else 1)
    making.go_on.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert later.result() == "made"
