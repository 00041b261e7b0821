"""Many threads do anything at any time: every request ends once, in one way, and nothing is left."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pumice.engine import Engine
from pumice.errors import DeadlineError, EngineClosedError, GenerationError, ImageError, QueueFullError
from tests.runtime.engine.stand_ins import PATIENCE, Ask, FakePipeline, eventually

MakeEngine = Callable[..., tuple[Engine, FakePipeline]]


class Client:
    """A thread that submits, cancels, reads and abandons by chance; counts what it got back."""

    def __init__(self, engine: Engine, seed: int, requests: int) -> None:
        self.engine, self.chance, self.requests = engine, random.Random(seed), requests
        self.futures: list[Future[Any]] = []
        self.streams = self.refused = 0
        self.errors: list[BaseException] = []

    def run(self) -> None:
        try:
            for _ in range(self.requests):
                self.one()
        except EngineClosedError:
            pass
        except BaseException as error:
            self.errors.append(error)

    def one(self) -> None:
        chance, engine = self.chance, self.engine
        rows = chance.choice([1, 1, 1, 2, 3])
        ask = Ask(
            tokens=chance.randint(1, 30),
            rows=rows,
            prepare_error=chance.choice([None] * 8 + [ImageError("x"), ValueError("y")]),
            text_error=None,
        )
        deadline = chance.choice([None, None, None, 1e-6, 0.002, PATIENCE])
        try:
            if chance.random() < 0.3:
                self.stream(ask, deadline)
            else:
                self.futures.append(engine.submit(ask, deadline=deadline, num_return_sequences=rows))
        except QueueFullError:
            self.refused += 1
            time.sleep(0.001)
        if self.futures and chance.random() < 0.3:
            chance.choice(self.futures).cancel()

    def stream(self, ask: Ask, deadline: float | None) -> None:
        stream = self.engine.stream(ask, deadline=deadline, num_return_sequences=ask.rows)
        self.streams += 1
        try:
            for _ in range(self.chance.randint(0, 5)):
                next(stream, None)
            if self.chance.random() < 0.3:
                stream.cancel()
        except (DeadlineError, ImageError, GenerationError):
            pass


def outcome(future: Future[Any]) -> str:
    try:
        future.result(PATIENCE)
    except CancelledError:
        return "cancelled"
    except DeadlineError:
        return "expired"
    except (ImageError, GenerationError):
        return "failed"
    return "finished"


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 2**32),
    slots=st.integers(3, 6),
    max_queue=st.integers(1, 12),
    drain=st.booleans(),
    early=st.booleans(),
)
def test_every_request_ends_once(
    make_engine: MakeEngine, seed: int, slots: int, max_queue: int, drain: bool, early: bool
) -> None:
    engine, fake = make_engine(slots=slots, max_queue=max_queue)
    clients = [Client(engine, seed + n, 40) for n in range(4)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    if early:
        time.sleep(0.005)
        engine.close(drain=drain)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    engine.close(drain=drain)
    assert not [error for client in clients for error in client.errors]
    futures = [future for client in clients for future in client.futures]
    assert not wait(futures, PATIENCE).not_done
    counters = engine.counters
    told = Counter({name: getattr(counters, name) for name in ("finished", "cancelled", "failed", "expired")})
    assert told.total() == len(futures) + sum(client.streams for client in clients)
    assert Counter(map(outcome, futures)) <= told
    assert counters.refused == sum(client.refused for client in clients)
    assert (counters.queued, counters.running, counters.slots_in_use) == (0, 0, 0)
    assert fake.schedule.free_slots == slots
    assert not fake.schedule.waiting
    assert not fake.schedule.running
    assert not engine._crew.step_loop._requests
    assert not engine._crew.step_loop._timed


def test_cancels_that_race_with_the_end(make_engine: MakeEngine) -> None:
    """Whoever is told that cancelling worked gets no result, and whoever is told that it did not gets one."""
    engine, _ = make_engine(slots=4, max_queue=1000)
    futures = [engine.submit(Ask(tokens=1 + n % 7)) for n in range(500)]
    cancelled = [future.cancel() for future in futures if time.sleep(0.0001) is None]
    assert [outcome(future) == "cancelled" for future in futures] == cancelled
    eventually(lambda: engine.counters.cancelled == sum(cancelled))
    assert engine.counters.finished == 500 - sum(cancelled)
