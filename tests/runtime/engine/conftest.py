"""Engines on stand-ins, and the certainty that none leaves a thread behind."""

from __future__ import annotations

import gc
import threading
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
