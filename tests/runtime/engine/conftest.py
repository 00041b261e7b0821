"""Engines on stand-ins, and the certainty that none leaves a thread behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pumice.engine import Engine
from tests.runtime.engine.stand_ins import FakePipeline, eventually


def engine_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pumice-engine")]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    if engine_threads():
        gc.collect()
    eventually(lambda: not engine_threads())


class FakeClock:
    """Stands for `time` in an engine: deadlines pass when a test says so."""

    perf_counter = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Of engines that are made from now on. A step thread that sleeps looks at it when it is woken."""
    clock = FakeClock()
    for module in ("engine", "step_loop"):
        monkeypatch.setattr(f"pumice.engine.{module}.time", clock)
    return clock


@pytest.fixture
def make_engine() -> Iterator[Callable[..., tuple[Engine, FakePipeline]]]:
    """`(slots=2, max_queue=…) → (engine, its stand-ins)`; closed in the end."""
    engines: list[Engine] = []

    def make(*, slots: int = 2, **arguments: Any) -> tuple[Engine, FakePipeline]:
        fake = FakePipeline(slots)
        engine = Engine(fake.model(), slots=slots, **arguments)
        engines.append(engine)
        return engine, fake

    yield make
    for engine in engines:
        engine.close(drain=False)
