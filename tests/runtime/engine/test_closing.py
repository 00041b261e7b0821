"""An engine's end: drained, aborted, let go, left behind at the interpreter's exit."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest

from pumice.engine import Engine
from pumice.errors import EngineClosedError, UsageError
from tests.runtime.engine.conftest import engine_threads
from tests.runtime.engine.stand_ins import PATIENCE, Ask, FakePipeline, Gate, eventually

MakeEngine = Callable[..., tuple[Engine, FakePipeline]]


def test_draining_answers_all_that_was_accepted(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(slots=2)
    futures = [engine.submit(Ask(tokens=50)) for _ in range(10)]
    engine.close()
    assert all(len(future.result(0).token_ids) == 50 for future in futures)
    assert not engine_threads()
    assert engine.counters.finished == 10
    with pytest.raises(EngineClosedError, match="the engine is closed: make another one"):
        engine.submit(Ask())
    engine.close()
    engine.close(drain=False)


def test_aborting_cancels_all(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(slots=2)
    futures = [engine.submit(Ask(endless=True)) for _ in range(10)]
    eventually(lambda: engine.counters.running == 2)
    engine.close(drain=False)
    assert all(future.cancelled() for future in futures)
    assert not engine_threads()
    assert engine.counters.cancelled == 10


@pytest.mark.parametrize("phase", ["encoding", "prefill"])
def test_aborting_ends_what_is_being_computed(make_engine: MakeEngine, phase: str) -> None:
    engine, _ = make_engine()
    gate = Gate()
    future = engine.submit(Ask(**{phase: gate}))
    gate.reached.wait(PATIENCE)
    engine.close(drain=False)  # the gate stays shut
    assert future.cancelled()


def test_draining_for_so_long_only(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    future = engine.submit(Ask(endless=True))
    engine.close(timeout=0.05)
    assert future.cancelled()
    assert not engine_threads()
    with pytest.raises(UsageError, match="timeout is -1"):
        engine.close(timeout=-1)


def test_leaving_the_context(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    with engine:
        future = engine.submit(Ask())
    assert future.done()
    assert not future.cancelled()


def test_leaving_the_context_by_an_exception(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    with pytest.raises(KeyError), engine:
        future = engine.submit(Ask(endless=True))
        raise KeyError
    with pytest.raises(CancelledError):
        future.result(0)


def test_closing_by_a_callback_and_by_several_threads(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    future = engine.submit(Ask())
    future.add_done_callback(lambda _: engine.close())
    threads = [threading.Thread(target=engine.close, args=(drain,)) for drain in (True, False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert future.done()


def test_an_engine_that_is_let_go_answers_what_it_accepted() -> None:
    fake = FakePipeline(2)
    engine = Engine(fake.model(), slots=2)
    gate = Gate()
    futures = [engine.submit(Ask(tokens=50, preparing=gate)) for _ in range(5)]
    del engine
    gate.open()
    assert not wait(futures, PATIENCE).not_done
    assert all(len(future.result(0).token_ids) == 50 for future in futures)
    eventually(lambda: not engine_threads())


def test_a_closed_engine_lets_go_of_its_cache(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    engine.close()
    assert not hasattr(engine._crew.step_loop, "_scheduler")


def test_another_process_is_told_so(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = make_engine()
    with monkeypatch.context() as patch:
        patch.setattr("pumice.engine.threads.os.getpid", lambda: -1)
        with pytest.raises(EngineClosedError, match="belongs to another process"):
            engine.submit(Ask())
        engine.close()
    engine.submit(Ask()).result(PATIENCE)


@pytest.mark.parametrize("held", ["", "encoding=Gate()", "prefill=Gate()"])
def test_the_interpreter_exits_without_close(held: str) -> None:
    program = f"""
import atexit
futures = []
atexit.register(lambda: print([future.cancelled() for future in futures]))  # after the engine's own
import pumice.engine.engine as module
from tests.runtime.engine.stand_ins import Ask, FakePipeline, Gate, eventually
fake = FakePipeline(2)
engine = module.Engine(fake.model(), slots=2)
futures += [engine.submit(Ask(endless=True, {held})) for _ in range(3)]
eventually(lambda: fake.asked)
print("leaving")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n[True, True, True]\n", "")
