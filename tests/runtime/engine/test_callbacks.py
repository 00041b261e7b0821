"""Callbacks of futures that raise what they like: none harms another callback, another answer, or the engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from pumice.engine import Engine
from pumice.errors import UsageError
from tests.runtime.engine.conftest import engine_threads
from tests.runtime.engine.stand_ins import PATIENCE, Ask, FakePipeline, Gate, eventually

MakeEngine = Callable[..., tuple[Engine, FakePipeline]]
RAISED = [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), ValueError("no")]


def raising(error: BaseException) -> Callable[[Future[Any]], None]:
    def callback(future: Future[Any]) -> None:
        raise error

    return callback


@pytest.mark.parametrize("error", RAISED, ids=repr)
@pytest.mark.parametrize(
    "ask", [Ask(tokens=2), Ask(prepare_error=ValueError("no"))], ids=["answered", "failed"]
)
def test_others_are_answered(
    make_engine: MakeEngine, error: BaseException, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    engine, _ = make_engine(slots=2)
    gate, called = Gate(), threading.Event()
    before = engine.submit(Ask(preparing=gate))
    first = engine.submit(ask)
    first.add_done_callback(raising(error))
    first.add_done_callback(lambda _: called.set())
    others = [engine.submit(Ask(tokens=3)) for _ in range(4)]
    others[0].add_done_callback(raising(error))
    gate.open()
    assert len(before.result(PATIENCE).token_ids) == 3
    assert all(len(other.result(PATIENCE).token_ids) == 3 for other in others)
    assert called.wait(PATIENCE)
    engine.close()
    assert engine.counters.finished + engine.counters.failed == 6
    logged = [record for record in caplog.records if record.name == "concurrent.futures"]
    assert len(logged) == 2
    assert all(record.exc_info and record.exc_info[1] is error for record in logged)


@pytest.mark.parametrize("error", RAISED, ids=repr)
def test_aborting_goes_on(make_engine: MakeEngine, error: BaseException) -> None:
    engine, _ = make_engine(slots=2)
    futures = [engine.submit(Ask(endless=True)) for _ in range(6)]
    eventually(lambda: engine.counters.running == 2)
    for future in futures:
        future.add_done_callback(raising(error))
    engine.close(drain=False)
    assert all(future.cancelled() for future in futures)
    assert not engine_threads()


def test_who_cancels_gets_what_the_callback_raises(make_engine: MakeEngine) -> None:
    """As with any future, it is their thread; the request is cancelled all the same."""
    engine, _ = make_engine()
    future = engine.submit(Ask(endless=True))
    future.add_done_callback(raising(SystemExit(3)))
    with pytest.raises(SystemExit):
        future.cancel()
    assert future.cancelled()
    eventually(lambda: engine.counters.cancelled == 1)
    assert len(engine.submit(Ask()).result(PATIENCE).token_ids) == 3


def test_a_future_that_somebody_else_sets(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    gate = Gate()
    started, settled = engine.submit(Ask(preparing=gate)), engine.submit(Ask())
    assert started.set_running_or_notify_cancel()
    settled.set_result("mine")
    gate.open()
    assert len(started.result(PATIENCE).token_ids) == 3
    assert len(engine.submit(Ask()).result(PATIENCE).token_ids) == 3
    assert settled.result() == "mine"


def test_awaiting_an_answer_whose_other_callback_exits(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()

    async def main() -> None:
        gate = Gate()
        future = engine.submit(Ask(preparing=gate))
        future.add_done_callback(raising(SystemExit()))
        waiting = asyncio.wrap_future(future)
        gate.open()
        async with asyncio.timeout(PATIENCE):
            assert len((await waiting).token_ids) == 3
            assert len((await engine.agenerate(Ask())).token_ids) == 3

    asyncio.run(main())


def test_a_stream_has_one_reader_at_a_time(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    gate = Gate()
    stream = engine.stream(Ask(tokens=3, preparing=gate))
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(stream))
    reader.start()
    gate.reached.wait(PATIENCE)
    eventually(stream._reading.locked)
    with pytest.raises(UsageError, match="being read already"):
        next(stream)
    gate.open()
    reader.join(PATIENCE)
    assert "".join(read) == "w0 w1 w2 "
    assert list(stream) == []


def test_an_asynchronous_stream_has_one_reader_at_a_time(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()

    async def main() -> None:
        gate = Gate()
        stream = engine.astream(Ask(tokens=3, preparing=gate))
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match="being read already"):
            await anext(stream)
        gate.open()
        async with asyncio.timeout(PATIENCE):
            assert await first + "".join([piece async for piece in stream]) == "w0 w1 w2 "

    asyncio.run(main())


def test_closing_a_stream_that_another_task_reads(make_engine: MakeEngine) -> None:
    """Both learn of its end."""
    engine, _ = make_engine()

    async def main() -> None:
        stream = engine.astream(Ask(encoding=Gate()))
        reader = asyncio.ensure_future(anext(stream, "nothing"))
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await stream.aclose()
            assert await reader == "nothing"

    asyncio.run(main())
