"""A stream says which in the queue its request is, in comments that clients pass over."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pumice.engine import Engine
from pumice.model import Model
from pumice.scheduler.scheduler import Scheduler
from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import eventually, question, received, running
from tests.runtime.serve.test_leaving import connected, head


def places(data: bytes) -> list[int]:
    return [int(place) for place in re.findall(rb": queued (\d+)\n\n", data)]


def test_places_are_told_as_they_change(pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, real = Gate(), Scheduler._decode

    def held(self: Scheduler) -> None:
        gate.pass_through()
        real(self)

    with running(pebble_bundle, gate=gate, slots=1, keep_alive=1000) as server:
        monkeypatch.setattr(Scheduler, "_decode", held)
        body = json.dumps(question("What?", stream=True, max_tokens=4, ignore_eos=True)).encode()
        first = connected(server, head(body))
        assert gate.reached.wait(300)
        second = connected(server, head(body))
        told = received(second, b": queued")
        third = connected(server, head(body))
        assert places(received(third, b": queued 2")) == [2]
        second.close()  # who waits behind one that leaves comes forward
        assert places(received(third, b": queued 1")) == [1]
        gate.open()
        assert places(received(first, b"[DONE]")) == []
        rest = received(third, b"[DONE]")
        assert places(told) == [1]
        assert b'"content":' in rest
        first.close()
        third.close()
        eventually(server.idle)


def test_who_does_not_wait_is_told_nothing(pebble_bundle: Path) -> None:
    with running(pebble_bundle, slots=4) as server:
        body = json.dumps(question("What?", stream=True, max_tokens=4)).encode()
        connection = connected(server, head(body))
        assert b": queued" not in received(connection, b"[DONE]")
        connection.close()


def test_openais_client_passes_over_it(pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openai = pytest.importorskip("openai")
    places = iter([3, 2, 2, 1])
    monkeypatch.setattr(Engine, "place_in_line", lambda self, future: next(places, 0))
    with running(pebble_bundle) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
        ask: Any = question("What is this?", model="pebble-fp32", stream=True, max_tokens=4)
        stream = list(client.chat.completions.create(**ask))
        whole = server.chat("What is this?", max_tokens=4).text
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == whole
        client.close()


def test_places_of_an_engine(model: Model) -> None:
    gate = Gate()
    with Engine(model, slots=1, max_queue=8) as engine:

        def follower(_: Any) -> None:
            gate.pass_through()

        first = engine.follow("What?", follower=follower, max_new_tokens=3)
        assert gate.reached.wait(300)
        others = [engine.submit("What?", max_new_tokens=2) for _ in range(3)]
        assert [engine.place_in_line(future) for future in (first, *others)] == [0, 1, 2, 3]
        others[1].cancel()
        eventually(lambda: engine.place_in_line(others[2]) == 2)
        assert engine.place_in_line(others[1]) == 0
        gate.open()
        others[2].result()
        assert engine.place_in_line(others[2]) == 0
