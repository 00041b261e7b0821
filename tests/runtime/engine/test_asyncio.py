"""The engine from event loops: tasks that are cancelled, loops that are left, loops that are closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from pumice.engine import AsyncEngineStream, Engine
from pumice.errors import EngineClosedError, ImageError, QueueFullError, UsageError
from tests.runtime.engine.stand_ins import PATIENCE, Ask, FakePipeline, Gate, eventually

MakeEngine = Callable[..., tuple[Engine, FakePipeline]]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


def test_many_at_once(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(slots=4)

    async def main() -> list[int]:
        answers = await asyncio.gather(*(engine.agenerate(Ask(tokens=n)) for n in range(1, 20)))
        return [len(answer.token_ids) for answer in answers]

    assert asyncio.run(main()) == list(range(1, 20))


def test_a_stream(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()

    async def main() -> None:
        stream = engine.astream(Ask(tokens=5))
        assert "".join([piece async for piece in stream]) == "w0 w1 w2 w3 w4 "
        assert len(stream.result.token_ids) == 5
        assert [piece async for piece in stream] == []
        both = engine.astream(Ask(rows=2), num_return_sequences=2)
        assert [piece async for piece in both] == ["w0 w1 w2 "]
        assert len(both.results) == 2

    asyncio.run(main())


def test_no_thread_for_a_stream(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(slots=8)

    async def main() -> None:
        before = threading.active_count()
        streams = [engine.astream(Ask(endless=True)) for _ in range(8)]
        for stream in streams:
            await anext(stream)
        assert threading.active_count() == before
        for stream in streams:
            await stream.aclose()

    asyncio.run(main())


def test_cancelling_a_task_cancels_its_request(make_engine: MakeEngine) -> None:
    engine, fake = make_engine()

    async def main() -> None:
        task = asyncio.create_task(engine.agenerate(Ask(endless=True)))
        await until(lambda: fake.schedule.running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: engine.counters.cancelled == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.agenerate(Ask(endless=True)), 0.02)
        await until(lambda: engine.counters.cancelled == 2)

    asyncio.run(main())
    assert fake.schedule.free_slots == 2


@pytest.mark.parametrize("how", ["break", "aclose", "context", "task"])
def test_leaving_a_stream_cancels_it(make_engine: MakeEngine, how: str) -> None:
    engine, fake = make_engine()
    gate = Gate()

    async def wait_for_a_piece(stream: AsyncEngineStream) -> None:
        await anext(stream)

    async def main() -> None:
        if how == "break":
            async for _ in engine.astream(Ask(endless=True)):
                break
        elif how == "aclose":
            stream = engine.astream(Ask(endless=True))
            said = await anext(stream)
            await stream.aclose()
            assert stream.result.finish_reason == "cancelled"
            assert stream.result.text.startswith(said)
            await stream.aclose()
        elif how == "context":
            async with engine.astream(Ask(endless=True)) as stream:
                await anext(stream)
        else:
            held = engine.astream(Ask(encoding=gate))
            task = asyncio.create_task(wait_for_a_piece(held))
            await until(gate.reached.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: engine.counters.cancelled == 1)

    asyncio.run(main())
    assert fake.schedule.free_slots == 2


def test_failures(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(max_queue=1)
    gate = Gate()

    async def main() -> None:
        with pytest.raises(ImageError):
            await engine.agenerate(Ask(prepare_error=ImageError("no image")))
        stream = engine.astream(Ask(prepare_error=ImageError("no image")))
        with pytest.raises(UsageError, match="has not ended"):
            _ = stream.result
        with pytest.raises(ImageError):
            await anext(stream)
        held = engine.astream(Ask(preparing=gate))
        with pytest.raises(QueueFullError):
            engine.astream(Ask())
        gate.open()
        assert [piece async for piece in held]

    asyncio.run(main())


def test_an_aborted_engine_does_not_look_like_a_cancelled_task(make_engine: MakeEngine) -> None:
    engine, fake = make_engine()

    async def main() -> None:
        task = asyncio.create_task(engine.agenerate(Ask(endless=True)))
        stream = engine.astream(Ask(endless=True))
        await anext(stream)
        await until(lambda: len(fake.schedule.running) == 2)
        await asyncio.to_thread(engine.close, drain=False)
        with pytest.raises(EngineClosedError, match="closed before the answer ended"):
            await task
        with pytest.raises(EngineClosedError, match="closed before the answer ended"):
            async for _ in stream:
                pass

    asyncio.run(main())


def test_a_loop_that_is_closed_ends_its_requests(make_engine: MakeEngine) -> None:
    engine, fake = make_engine()
    kept: list[AsyncEngineStream] = []

    async def main() -> None:
        stream = engine.astream(Ask(endless=True))
        await anext(stream)
        kept.append(stream)

    asyncio.run(main())
    eventually(lambda: fake.schedule.free_slots == 2)
    engine.submit(Ask()).result(PATIENCE)
