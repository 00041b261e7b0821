"""The server tells the truth of itself: ready only while it can answer, and a failure is its request's alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pumice.scheduler.request import Request
from pumice.scheduler.scheduler import Scheduler
from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import PATIENCE, Running, eventually, running

POISON = "Poison"


def stall(gate: Gate, patch: pytest.MonkeyPatch) -> None:
    """The next step stands until the gate is opened."""
    real = Scheduler.step

    def held(self: Scheduler) -> bool:
        gate.pass_through()
        return real(self)

    patch.setattr(Scheduler, "step", held)


def die(patch: pytest.MonkeyPatch) -> None:
    """The next step fails as a whole."""

    def failing(self: Scheduler) -> bool:
        raise RuntimeError("at 0xdeadbeef in /root/secret")

    patch.setattr(Scheduler, "step", failing)


def poison(patch: pytest.MonkeyPatch, server: Running, *, after: int) -> None:
    """Logits of one question are no numbers, behind so many tokens."""
    ids = server.loaded.model.prepare(POISON).input_ids[0].tolist()
    real = Scheduler._advance

    def poisoned(self: Scheduler, request: Request, logits_RV: list[Any]) -> None:
        if request.ids == ids and request.tokens == after:
            logits_RV = [logits_V * np.float32(np.nan) for logits_V in logits_RV]
        real(self, request, logits_RV)

    patch.setattr(Scheduler, "_advance", poisoned)


def test_a_stalled_engine_is_not_ready(pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with running(pebble_bundle, gate=gate) as server, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr("pumice.serve.bundles.STALLED_S", 0.05)
        stall(gate, monkeypatch)
        asked = pool.submit(server.chat, "Hi", max_tokens=2)
        eventually(lambda: server.get("/ready").status == 503)
        assert server.get("/health/ready").json == {"status": "the engine is stalled"}
        assert server.get("/health/live").status == 200
        gate.open()
        assert asked.result(PATIENCE).status == 200
        eventually(lambda: server.get("/ready").status == 200)


def test_an_engine_that_failed_is_neither_ready_nor_healthy(
    pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(pebble_bundle) as server:
        expected = server.chat("Hi", max_tokens=8).text
        with monkeypatch.context() as patch:
            die(patch)
            asked = server.chat("Hi", max_tokens=8)
            assert (asked.status, asked.error["code"]) == (503, "draining")
        eventually(lambda: not server.loaded.engine.alive)
        for path in ("/health", "/v1/health", "/ready", "/health/ready"):
            answer = server.get(path)
            assert answer.status == 503, path
            assert "ended" in answer.body.decode()
            assert "0x" not in answer.body.decode()
        assert server.get("/health/live").status == 200  # the process answers
        assert b"pumice_ready 0.0" in server.get("/metrics").body
        assert server.chat("Hi").status == 503
        stream = server.chat("Hi", stream=True)
        assert (stream.status, stream.error["code"]) == (503, "draining")
    with running(pebble_bundle) as server:  # another one answers as it did
        assert server.get("/health").status == 200
        assert server.chat("Hi", max_tokens=8).text == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after", [0, 5])
def test_logits_that_are_no_numbers_fail_their_request_alone(
    server: Running, monkeypatch: pytest.MonkeyPatch, after: int, stream: bool
) -> None:
    alone = server.chat("Describe it.", max_tokens=20).text
    poison(monkeypatch, server, after=after)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(server.chat, "Describe it.", max_tokens=20) for _ in range(4)]
        bad = server.chat(POISON, max_tokens=20, ignore_eos=True, stream=stream)
        assert [each.result(PATIENCE).text for each in asked] == [alone] * 4
    assert bad.status == (200 if stream else 500)
    error = bad.events[-1]["error"] if stream else bad.error
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert b"[DONE]" not in bad.body
    if not stream:
        assert bad.headers["x-should-retry"] == "false"
    assert server.chat("Describe it.", max_tokens=20).text == alone
    assert server.get("/ready").status == 200
