"""Streams for threads: pieces, results, cancelling, and streams that nobody reads any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pumice.engine import Engine
from pumice.errors import EngineClosedError, ImageError, UsageError
from tests.runtime.engine.stand_ins import PATIENCE, Ask, FakePipeline, Gate, eventually

MakeEngine = Callable[..., tuple[Engine, FakePipeline]]


def test_pieces_and_result(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    stream = engine.stream(Ask(tokens=4))
    assert "".join(stream) == "w0 w1 w2 w3 "
    assert stream.result.text == "w0 w1 w2 w3 "
    assert stream.result.finish_reason == "stop"
    assert list(stream) == []
    assert engine.counters.finished == 1


def test_several_answers_are_one_piece(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    stream = engine.stream(Ask(rows=2), num_return_sequences=2)
    assert list(stream) == ["w0 w1 w2 "]
    assert len(stream.results) == 2


def test_a_result_before_the_end(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    stream = engine.stream(Ask(endless=True))
    next(stream)
    with pytest.raises(UsageError, match="the answer has not ended"):
        _ = stream.result


def test_cancelling_keeps_what_was_said(make_engine: MakeEngine) -> None:
    engine, fake = make_engine()
    stream = engine.stream(Ask(endless=True))
    said = next(stream) + next(stream)
    stream.cancel()
    assert stream.result.finish_reason == "cancelled"
    said += "".join(stream)
    assert stream.result.text.startswith(said)
    assert next(stream, None) is None
    eventually(lambda: engine.counters.cancelled == 1)
    assert fake.schedule.free_slots == 2
    stream.cancel()


def test_cancelling_before_it_was_begun(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    gate = Gate()
    stream = engine.stream(Ask(preparing=gate))
    gate.reached.wait(PATIENCE)
    stream.cancel()
    assert list(stream) == []
    with pytest.raises(UsageError, match="cancelled before it was begun"):
        _ = stream.result
    gate.open()


def test_another_thread_cancels(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    gate = Gate()
    stream = engine.stream(Ask(encoding=gate))
    pieces: list[str] = []
    reader = threading.Thread(target=lambda: pieces.extend(stream))
    reader.start()
    gate.reached.wait(PATIENCE)
    stream.cancel()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert not pieces


@pytest.mark.parametrize("how", ["let go", "context", "loop"])
def test_abandoned_streams_are_cancelled(make_engine: MakeEngine, how: str) -> None:
    engine, fake = make_engine()
    if how == "let go":
        stream = engine.stream(Ask(endless=True))
        next(stream)
        del stream
    elif how == "context":
        with engine.stream(Ask(endless=True)) as stream:
            next(stream)
    else:
        for _ in engine.stream(Ask(endless=True)):
            break
    eventually(lambda: engine.counters.cancelled == 1)
    assert fake.schedule.free_slots == 2


def test_a_failure_is_raised_once(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    stream = engine.stream(Ask(prepare_error=ImageError("no image")))
    with pytest.raises(ImageError, match="no image"):
        next(stream)
    assert next(stream, None) is None
    with pytest.raises(ImageError, match="no image"):
        _ = stream.result


def test_the_engine_is_closed_meanwhile(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    stream = engine.stream(Ask(endless=True))
    next(stream)
    engine.close(drain=False)
    with pytest.raises(EngineClosedError, match="closed before the answer ended"):
        list(stream)


def test_nobody_reads_and_others_go_on(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    unread = engine.stream(Ask(tokens=5000))
    assert engine.submit(Ask(tokens=5000)).result(PATIENCE)
    assert len(list(unread)) >= 1
    assert len(unread.result.token_ids) == 5000
