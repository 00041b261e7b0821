"""What callers can rely on: results, a bounded queue, failures that stay where they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import pytest

from pumice.engine import Engine
from pumice.errors import (
    EngineClosedError,
    GenerationError,
    ImageError,
    QueueFullError,
    UsageError,
)
from tests.runtime.engine.stand_ins import PATIENCE, Ask, FakePipeline, Gate, eventually

MakeEngine = Callable[..., tuple[Engine, FakePipeline]]


def test_answers_come_through_futures(make_engine: MakeEngine) -> None:
    engine, fake = make_engine(slots=4)
    futures = [engine.submit(Ask(tokens=n)) for n in range(1, 21)]
    assert [len(future.result(PATIENCE).token_ids) for future in futures] == list(range(1, 21))
    assert fake.schedule.threads == {"pumice-engine-step"}
    assert engine.slots == 4
    assert engine.context == 64


def test_several_answers_are_a_list(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    answers = engine.submit(Ask(rows=2), num_return_sequences=2).result(PATIENCE)
    assert [answer.text for answer in answers] == ["w0 w1 w2 "] * 2


def test_first_come_first_served(make_engine: MakeEngine) -> None:
    engine, fake = make_engine(slots=2)
    asks = [Ask(rows=2 if n % 3 == 1 else 1) for n in range(12)]
    wait([engine.submit(ask, num_return_sequences=ask.rows) for ask in asks], PATIENCE)
    assert fake.asked == asks
    assert [request.strategy.ask for request in fake.schedule.order] == asks  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slots": 0}, "slots is 0, expected 1 to 1,024"),
        ({"slots": True}, "slots is True"),
        ({"max_queue": 0}, "max_queue is 0, expected 1 to 1,000,000"),
        ({"context": 65}, r"context is 65, expected 2 to 64 \(the model's context\)"),
        ({"context": 1.5}, "context is 1.5"),
    ],
)
def test_numbers_outside_their_intervals(
    make_engine: MakeEngine, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_engine(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unheard_of": 1}, "unheard_of"),
        ({"deadline": 0}, "deadline is 0, expected seconds from now, above 0"),
        ({"deadline": float("nan")}, "deadline is nan"),
        ({"deadline": "soon"}, "deadline is 'soon'"),
        ({"num_beams": 3}, "needs 3 slots.*the engine has 2"),
    ],
)
def test_options_are_checked_in_the_caller(
    make_engine: MakeEngine, arguments: dict[str, Any], message: str
) -> None:
    engine, fake = make_engine()
    with pytest.raises(UsageError, match=message):
        engine.submit(Ask(), **arguments)
    assert not fake.asked
    assert engine.counters.queued == 0


def test_a_full_queue_refuses_before_any_work(make_engine: MakeEngine) -> None:
    engine, fake = make_engine(max_queue=3)
    gate = Gate()
    futures = [engine.submit(Ask(preparing=gate)), engine.submit(Ask()), engine.submit(Ask())]
    with pytest.raises(QueueFullError, match="3 requests wait already, and max_queue is 3"):
        engine.submit(Ask(tokens=99))
    assert engine.counters.queued == 3
    assert engine.counters.refused == 1
    gate.open()
    assert not wait(futures, PATIENCE).not_done
    assert all(ask.tokens != 99 for ask in fake.asked)
    engine.submit(Ask()).result(PATIENCE)


def test_a_request_in_its_slot_is_no_longer_queued(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(slots=1, max_queue=1)
    running = engine.submit(Ask(endless=True))
    eventually(lambda: engine.counters.queued == 0)
    queued = engine.submit(Ask())
    with pytest.raises(QueueFullError):
        engine.submit(Ask())
    counters = engine.counters
    assert (counters.queued, counters.running, counters.slots_in_use) == (1, 1, 1)
    running.cancel()
    queued.result(PATIENCE)


def test_images_are_prepared_for_as_many_as_there_are_slots(make_engine: MakeEngine) -> None:
    engine, fake = make_engine(slots=2)
    running = [engine.submit(Ask(endless=True)) for _ in range(2)]
    eventually(lambda: engine.counters.running == 2)
    later = [engine.submit(Ask()) for _ in range(6)]
    eventually(lambda: len(fake.asked) == 4)
    time.sleep(0.02)
    assert len(fake.asked) == 4
    for future in running:
        future.cancel()
    assert not wait(later, PATIENCE).not_done


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (ImageError("the image cannot be read"), ImageError, "the image cannot be read"),
        (ZeroDivisionError("by 0"), GenerationError, "the request failed: ZeroDivisionError: by 0"),
        (SystemExit(3), GenerationError, "SystemExit"),
    ],
)
def test_a_failing_preparation_hurts_nobody_else(
    make_engine: MakeEngine, error: BaseException, raised: type[Exception], message: str
) -> None:
    engine, _ = make_engine()
    good = engine.submit(Ask(tokens=200))
    bad = engine.submit(Ask(prepare_error=error))
    with pytest.raises(raised, match=message):
        bad.result(PATIENCE)
    assert len(good.result(PATIENCE).token_ids) == 200
    engine.submit(Ask()).result(PATIENCE)
    assert (engine.counters.failed, engine.counters.finished) == (1, 2)


def test_a_failing_answer_hurts_nobody_else(make_engine: MakeEngine) -> None:
    engine, fake = make_engine()
    good = engine.submit(Ask(tokens=200))
    bad = engine.stream(Ask(endless=True, text_error=ZeroDivisionError("by 0")))
    with pytest.raises(GenerationError, match="the request failed: ZeroDivisionError: by 0"):
        next(bad)
    assert len(good.result(PATIENCE).token_ids) == 200
    assert fake.schedule.free_slots == 2


def test_a_failing_scheduler_fails_everybody_and_closes_the_engine(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(slots=3)
    breaks, prepares = Gate(), Gate()
    breaking = engine.submit(Ask(prefill=breaks, step_error=RuntimeError("no more")))
    running = engine.submit(Ask(endless=True))
    preparing = engine.submit(Ask(preparing=prepares))
    in_line = engine.submit(Ask())
    assert breaks.reached.wait(PATIENCE)
    assert prepares.reached.wait(PATIENCE)
    breaks.open()
    for future in (breaking, running, preparing, in_line):
        with pytest.raises(EngineClosedError, match="the engine failed: RuntimeError: no more"):
            future.result(PATIENCE)
    prepares.open()
    with pytest.raises(EngineClosedError, match="the engine failed: RuntimeError: no more: make another one"):
        engine.submit(Ask())
    engine.close()
    assert engine.counters.running == engine.counters.queued == 0
    assert engine.counters.failed == 4


def test_a_slow_callback_does_not_hold_up_the_steps(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    gate = Gate()
    engine.submit(Ask()).add_done_callback(lambda _: gate.pass_through())
    gate.reached.wait(PATIENCE)
    stream = engine.stream(Ask(endless=True))
    assert [next(stream) for _ in range(3)]
    stream.cancel()
    gate.open()


def test_callbacks_may_use_the_engine(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    second: list[Future[Any]] = []
    done = threading.Event()

    def again(_: object) -> None:
        second.append(engine.submit(Ask()))
        done.set()

    engine.submit(Ask()).add_done_callback(again)
    assert done.wait(PATIENCE)
    second[0].result(PATIENCE)


def test_a_future_that_somebody_else_has_set(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    future: Future[Any] = engine.submit(Ask(endless=True))
    future.set_result("mine")
    engine.submit(Ask()).result(PATIENCE)
    assert future.result() == "mine"


def test_messages_may_change_after_submit(make_engine: MakeEngine) -> None:
    engine, fake = make_engine()
    gate, ask = Gate(), Ask()
    engine.submit(Ask(preparing=gate))
    messages: list[dict[str, Any]] = [{"ask": ask}]
    images: list[Any] = []
    future = engine.submit(messages, images)
    messages[0]["ask"] = None
    messages.clear()
    gate.open()
    future.result(PATIENCE)
    assert ask in fake.asked


def test_counters(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    for tokens in (1, 2, 5):
        engine.submit(Ask(tokens=tokens)).result(PATIENCE)
    counters = engine.counters
    assert counters.finished == 3
    assert counters.prompt_tokens == 9
    assert counters.generated_tokens == 8
    first, between = counters.time_to_first_token_seconds, counters.time_between_tokens_seconds
    assert (first.count, between.count) == (3, 5)
    assert first.mean > 0
    assert len(first.counts) == len(first.bounds) + 1
    assert counters.slots == 2
