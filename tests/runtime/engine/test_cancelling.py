"""Cancelling and deadlines, in every phase of a request."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import pytest

from pumice.engine import Engine
from pumice.errors import (
    DeadlineError,
)
from tests.runtime.engine.conftest import FakeClock
from tests.runtime.engine.stand_ins import PATIENCE, Ask, FakePipeline, Gate, eventually

MakeEngine = Callable[..., tuple[Engine, FakePipeline]]
PHASES = ["in line", "preparing", "encoding", "waiting", "prefill", "decode"]


def ask_in(phase: str, engine: Engine, fake: FakePipeline) -> tuple[Ask, Gate | None, list[Future[Any]]]:
    """An ask that stays in a phase, the gate at which others are held up for it, and those others' futures."""
    gate = Gate()
    others: list[Future[Any]] = []
    if phase == "in line":
        others = [engine.submit(Ask(preparing=gate))]
        gate.reached.wait(PATIENCE)
        return Ask(), gate, others
    if phase == "waiting":
        others = [engine.submit(Ask(endless=True, rows=2), num_return_sequences=2)]
        eventually(lambda: fake.schedule.free_slots == 0)
        return Ask(), None, others
    if phase == "decode":
        return Ask(endless=True), None, []
    return Ask(**{phase: gate}), gate, others


def arrived(phase: str, ask: Ask, fake: FakePipeline) -> bool:
    scheduler = fake.schedule
    running = [request.strategy.ask for request in scheduler.running]  # type: ignore[attr-defined]
    if phase == "in line":
        return ask not in fake.asked
    if phase == "waiting":
        return ask in [request.strategy.ask for request in scheduler.waiting]  # type: ignore[attr-defined]
    if phase == "decode":
        return ask in running and scheduler.steps > 3
    gate: Gate = getattr(ask, phase)
    return gate.reached.is_set()


@pytest.mark.parametrize("phase", PHASES)
def test_cancelling_works_in_every_phase(make_engine: MakeEngine, phase: str) -> None:
    engine, fake = make_engine()
    ask, gate, others = ask_in(phase, engine, fake)
    future = engine.submit(ask)
    eventually(lambda: arrived(phase, ask, fake))
    assert not future.done()
    assert not future.running()
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(0)
    assert future in wait([future], PATIENCE).done
    if gate is not None and phase in ("in line", "preparing"):
        gate.open()  # other gates stay shut: what was computed there has ended
    for other in others:
        other.cancel()
    engine.submit(Ask()).result(PATIENCE)
    eventually(lambda: engine.counters.cancelled == 1 + sum(other.cancelled() for other in others))
    assert fake.schedule.free_slots == 2
    assert engine.counters.slots_in_use == 0


def test_what_was_cancelled_while_it_was_prepared_is_not_encoded(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    preparing, encoding = Gate(), Gate()
    future = engine.submit(Ask(preparing=preparing, encoding=encoding))
    assert preparing.reached.wait(PATIENCE)
    future.cancel()
    preparing.open()
    engine.submit(Ask()).result(PATIENCE)
    assert not encoding.reached.is_set()


def test_a_run_that_ends_before_the_cancelling_is_noted_has_not_failed(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    encoding = Gate()
    future = engine.submit(Ask(encoding=encoding))
    assert encoding.reached.wait(PATIENCE)
    (submission,) = engine._crew.request_queue.live()
    submission.stop()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    assert engine.counters.cancelled == 1


def test_cancelling_what_is_done_does_nothing(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    future = engine.submit(Ask())
    answer = future.result(PATIENCE)
    assert not future.cancel()
    assert future.result() is answer
    assert engine.counters.finished == 1
    assert engine.counters.cancelled == 0


@pytest.mark.parametrize("phase", PHASES)
def test_deadlines_hold_in_every_phase(make_engine: MakeEngine, clock: FakeClock, phase: str) -> None:
    engine, fake = make_engine()
    ask, gate, others = ask_in(phase, engine, fake)
    ask.endless = ask.endless or phase == "prefill"
    future = engine.submit(ask, deadline=60)
    eventually(lambda: arrived(phase, ask, fake))
    clock.now += 59
    engine._crew.step_loop.wake()
    assert not future.done()
    clock.now += 2
    engine._crew.step_loop.wake()
    if phase == "prefill":  # a chunk ends by itself; the step thread looks at the clock between two
        assert gate is not None
        gate.open()
    where = {"waiting": "while the request waited for a slot", "decode": "generated tokens"}
    with pytest.raises(DeadlineError, match="the deadline of 60 s passed .*" + where.get(phase, "")):
        future.result(PATIENCE)
    if gate is not None:
        gate.open()
    for other in others:
        other.cancel()
    engine.submit(Ask(), deadline=PATIENCE).result(PATIENCE)
    assert engine.counters.expired == 1
