"""Nobody waits in silence, and nobody's image holds up the others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pumice.prompt.builder import PromptBuilder
from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import (
    CHAT,
    PATIENCE,
    eventually,
    image_part,
    png,
    question,
    received,
    running,
    text,
)
from tests.runtime.serve.test_leaving import connected, head


def test_a_stream_begins_at_once_and_says_that_it_lives(
    pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an image is prepared: the head and who speaks, then comments; other routes answer meanwhile."""
    gate, real = Gate(), PromptBuilder.prepare

    def held(self: PromptBuilder, *rest: Any, **more: Any) -> Any:
        gate.pass_through()
        return real(self, *rest, **more)

    with running(pebble_bundle, gate=gate, keep_alive=0.05) as server:
        monkeypatch.setattr(PromptBuilder, "prepare", held)
        ask: Any = question([image_part(png()), text("What?")], stream=True, max_tokens=4)
        body = json.dumps(ask).encode()
        with connected(server, head(body)) as connection:
            data = b""
            while data.count(b": keep-alive\n\n") < 3:
                data += connection.recv(4096)
            assert gate.reached.is_set()
            assert data.startswith(b"HTTP/1.1 200 OK\r\n")
            beginning = data[data.index(b"data: ") :]
            assert (
                json.loads(beginning[6:].partition(b"\n\n")[0])["choices"][0]["delta"]["role"] == "assistant"
            )
            assert server.get("/health").status == 200
            assert server.get("/metrics").status == 200
            gate.open()
            while b"data: [DONE]\n\n" not in data:
                data += connection.recv(4096)
        monkeypatch.setattr(PromptBuilder, "prepare", real)
        content = server.chat([image_part(png()), text("What?")], max_tokens=4).text
        assert json.dumps(content)[1:-1].split()[0].encode() in data


def test_comments_come_between_events_too(pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pumice.scheduler.scheduler import Scheduler

    gate, real = Gate(), Scheduler._decode

    def held(self: Scheduler) -> None:
        gate.pass_through()
        real(self)

    with running(pebble_bundle, gate=gate, keep_alive=0.05) as server:
        monkeypatch.setattr(Scheduler, "_decode", held)
        body = json.dumps(question("What?", stream=True, max_tokens=4, ignore_eos=True)).encode()
        with connected(server, head(body)) as connection:
            data = b""
            while data.count(b": keep-alive\n\n") < 2 or data.count(b"data: ") < 2:
                data += connection.recv(4096)
            gate.open()
            while b"data: [DONE]\n\n" not in data:
                data += connection.recv(4096)
        body = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", data.partition(b"\r\n\r\n")[2].partition(b"\r\n")[2])
        events = body[: body.index(b"[DONE]")].split(b"\n\n")
        assert all(event.startswith((b"data: ", b": keep-alive")) for event in events)


def test_a_slow_check_holds_up_nobody(pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base64, heads of images, schemas: none of it is the event loop's."""
    from pumice.serve import asking

    gate, real = Gate(), asking.question_of

    def held(*arguments: Any) -> Any:
        gate.pass_through()
        return real(*arguments)

    with running(pebble_bundle, gate=gate) as server:
        monkeypatch.setattr(asking, "question_of", held)
        connection = connected(server, head(json.dumps(question("Hi", max_tokens=2)).encode()))
        assert gate.reached.wait(PATIENCE)
        assert server.get("/health").status == 200
        assert server.app.server.admission.taken == 1
        gate.open()
        assert received(connection, b'"timings"').startswith(b"HTTP/1.1 200")
        connection.close()
        eventually(server.idle)
        assert server.app.server.tally.requests[CHAT, 200] == 1
