"""What an engine keeps of requests that have ended, and does while there are none: nothing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import wait
from queue import SimpleQueue
from typing import Any

import pytest

from pumice.engine import Engine
from pumice.errors import (
    ImageError,
)
from tests.runtime.engine.conftest import FakeClock
from tests.runtime.engine.stand_ins import PATIENCE, Ask, FakePipeline, Gate, eventually

MakeEngine = Callable[..., tuple[Engine, FakePipeline]]


def test_deadlines_far_away_keep_nothing(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    for _ in range(50):
        engine.submit(Ask(), deadline=1e9).result(PATIENCE)
    eventually(lambda: not engine._crew.step_loop._timed)


@pytest.mark.parametrize("how", ["finished", "failed", "cancelled", "cancelled in line", "expired"])
def test_nothing_of_a_request_is_kept(make_engine: MakeEngine, how: str) -> None:
    """Not even while somebody holds the future."""
    engine, fake = make_engine()
    gate = Gate()

    class Pixels:
        pass

    image = Pixels()
    gone = weakref.ref(image)
    ask = Ask(
        endless=how in ("cancelled", "expired"),
        prepare_error=ImageError("no image") if how == "failed" else None,
    )
    blocking = engine.submit(Ask(preparing=gate)) if how == "cancelled in line" else None
    future = engine.submit(ask, [image], deadline=0.02 if how == "expired" else None)  # type: ignore[list-item]
    del image
    if how.startswith("cancelled"):
        if how == "cancelled":
            eventually(lambda: fake.schedule.running)
        future.cancel()
    assert wait([future], PATIENCE).done
    submission = weakref.ref(ask)
    fake.asked.clear()
    fake.schedule.order.clear()
    del ask

    def collected() -> bool:
        gc.collect()
        return gone() is None and submission() is None

    eventually(collected)
    gate.open()
    if blocking is not None:
        blocking.result(PATIENCE)


def test_not_even_the_future_is_kept(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    future = engine.submit(Ask())
    future.result(PATIENCE)
    gone = weakref.ref(future)
    del future

    def collected() -> bool:
        gc.collect()
        return gone() is None

    eventually(collected)


class NotedMail(SimpleQueue[Any]):
    """Notes how long its reader is willing to sleep, while it does."""

    sleeps: Any = ""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self.sleeps = timeout
        try:
            return super().get(block, timeout)
        finally:
            self.sleeps = ""


@pytest.mark.parametrize("deadline", [None, PATIENCE])
def test_an_idle_engine_sleeps(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, clock: FakeClock, deadline: float | None
) -> None:
    """Until there is mail, or a deadline passes."""
    monkeypatch.setattr("pumice.engine.step_loop.SimpleQueue", NotedMail)
    engine, fake = make_engine()
    engine.submit(Ask(), deadline=deadline).result(PATIENCE)
    mail: Any = engine._crew.step_loop._mail
    eventually(lambda: not engine._crew.step_loop._busy and mail.sleeps == deadline and not mail.qsize())
    steps = fake.schedule.steps
    engine._crew.step_loop.wake()
    eventually(lambda: mail.sleeps == deadline and not mail.qsize())
    assert fake.schedule.steps == steps
