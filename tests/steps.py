"""What work costs, counted in lines of Python that run: the same on any machine, however busy it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def check_steps(module: str, limit: int, work: Callable[[], None]) -> None:
    """Runs `work`, in which at most `limit` lines of a module may run, and at least one."""
    steps = 0

    def count(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        nonlocal steps
        if frame.f_globals.get("__name__") != module:
            return None
        steps += event == "line"
        assert steps <= limit
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    assert steps > 0  # it is the module that was counted
