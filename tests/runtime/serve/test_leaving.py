"""A client that leaves ends its own request, wherever that is; its neighbours do not notice."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pumice.prompt.builder import PromptBuilder
from pumice.scheduler.scheduler import Scheduler
from pumice.sessions.runs import Cancellation
from pumice.vision.features import PromptFeatures
from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import (
    CHAT,
    PATIENCE,
    Running,
    eventually,
    image_part,
    png,
    question,
    running,
    text,
)

STATES = ("uploading", "checking", "queued", "preparing", "encoding", "prefill", "decoding")
LEAVER = "The one that leaves"


@pytest.fixture(scope="module")
def two_slots(pebble_bundle: Path) -> Iterator[Running]:
    with running(pebble_bundle, slots=2, max_queue=20) as server:
        yield server


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def head(body: bytes, more: int = 0) -> bytes:
    lines = [f"POST {CHAT} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body) + more}", "", ""]
    return "\r\n".join(lines).encode() + body


def connected(server: Running, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    connection.sendall(data)
    return connection


def hold(state: str, gate: Gate, patch: pytest.MonkeyPatch) -> None:
    """Stop the leaver's request in a state; others only where one thread serves all."""
    prepare, encode = PromptBuilder.prepare, PromptFeatures.encode
    prefill, decode = Scheduler._prefill_chunk, Scheduler._decode

    def held_prepare(self: PromptBuilder, prompt: Any, *rest: Any, **more: Any) -> Any:
        if LEAVER in json.dumps(prompt, default=str):
            gate.pass_through()
        return prepare(self, prompt, *rest, **more)

    def held_encode(self: PromptFeatures, cancellation: Cancellation) -> None:
        if self.images:
            gate.pass_through(cancellation)
        encode(self, cancellation)

    def held_prefill(self: Scheduler, chunk: Any) -> Any:
        gate.pass_through()
        return prefill(self, chunk)

    def held_decode(self: Scheduler) -> None:
        gate.pass_through()
        decode(self)

    match state:
        case "preparing":
            patch.setattr(PromptBuilder, "prepare", held_prepare)
        case "encoding":
            patch.setattr(PromptFeatures, "encode", held_encode)
        case "prefill" | "queued":
            patch.setattr(Scheduler, "_prefill_chunk", held_prefill)
        case "decoding":
            patch.setattr(Scheduler, "_decode", held_decode)
        case "checking":
            from pumice.serve import asking

            real = asking.question_of

            def held_check(*arguments: Any) -> Any:
                gate.pass_through()
                return real(*arguments)

            patch.setattr(asking, "question_of", held_check)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_leaving_ends_the_request_where_it_is(
    two_slots: Running, gate: Gate, monkeypatch: pytest.MonkeyPatch, state: str, stream: bool
) -> None:
    left = leave(two_slots, gate, monkeypatch, state, stream=stream)
    assert left.neighbours_as_alone
    assert left.counted
    assert left.more_tokens <= 1  # of the step that was under way


@dataclass(frozen=True, kw_only=True)
class Left:
    """What came of a client's leaving."""

    neighbours_as_alone: bool
    counted: bool
    """By the engine, as cancelled; as nothing, where it never came there."""
    more_tokens: int
    """Generated for it after it had left."""
    noticed_s: float


def leave(server: Running, gate: Gate, patch: pytest.MonkeyPatch, state: str, *, stream: bool) -> Left:
    """Have a client leave while its request is held in a state, with neighbours before and behind it."""
    neighbour = [image_part(png("blue")), text("What is this? And this?")]
    expected = server.chat(neighbour, max_tokens=20).text
    eventually(server.idle)
    server.app.server.tally.requests[CHAT, 499] = 0
    before = server.loaded.engine.counters
    ask: Any = question([image_part(png("green", (31, 17))), text(LEAVER)], max_tokens=1500, ignore_eos=True)
    body = json.dumps({**ask, "stream": stream}).encode()
    with ThreadPoolExecutor(4) as pool:
        hold(state, gate, patch)
        first = 2 if state == "queued" else 0
        others = [pool.submit(server.chat, neighbour, max_tokens=20) for _ in range(first)]
        if state == "queued":  # both slots are theirs
            eventually(lambda: _under_way(server) == 2 and gate.reached.is_set())
        sent = head(body[:100], len(body) - 100) if state == "uploading" else head(body)
        leaver = connected(server, sent)
        if state == "uploading":
            eventually(lambda: server.app.server.admission.taken == 1)
        elif state == "queued":
            eventually(lambda: _under_way(server) == 3)
        else:
            assert gate.reached.wait(PATIENCE)
        own = server.loaded.engine.counters.generated_tokens - before.generated_tokens if not first else 0
        others += [pool.submit(server.chat, neighbour, max_tokens=20) for _ in range(2)]
        began = time.perf_counter()
        leaver.close()
        eventually(lambda: _left(server) == 1)
        noticed = time.perf_counter() - began
        eventually(lambda: server.app.server.admission.taken <= first + 2)
        gate.open()
        answers = [other.result(PATIENCE) for other in others]
    eventually(server.idle)
    reached = state not in ("uploading", "checking")
    eventually(lambda: server.loaded.engine.counters.cancelled - before.cancelled == reached)
    after = server.loaded.engine.counters
    said = sum(answer.json["usage"]["completion_tokens"] for answer in answers)
    return Left(
        neighbours_as_alone=[answer.text for answer in answers] == [expected] * len(answers),
        counted=after.finished - before.finished == len(answers),
        more_tokens=after.generated_tokens - before.generated_tokens - said - own,
        noticed_s=noticed,
    )


def _under_way(server: Running) -> int:
    counters = server.loaded.engine.counters
    return counters.queued + counters.running


def _left(server: Running) -> int:
    return server.app.server.tally.requests[CHAT, 499]


def test_a_client_that_leaves_while_it_reads(two_slots: Running) -> None:
    server = two_slots
    before = server.loaded.engine.counters
    body = json.dumps(question(LEAVER, max_tokens=1900, ignore_eos=True, stream=True)).encode()
    for _ in range(5):
        connection = connected(server, head(body))
        data = b""
        while data.count(b"data: ") < 3:
            data += connection.recv(4096)
        connection.close()
    eventually(server.idle)
    eventually(lambda: server.loaded.engine.counters.cancelled - before.cancelled == 5)
    after = server.loaded.engine.counters
    assert after.generated_tokens - before.generated_tokens < 5 * 1900


def test_one_that_goes_on_listening_is_answered(two_slots: Running) -> None:
    """A whole answer, on a connection that has served others before and does so again."""
    body = json.dumps(question("Hi", max_tokens=3)).encode()
    with connected(two_slots, head(body)) as connection:
        for _ in range(3):
            data = b""
            while b'"timings"' not in data:
                data += connection.recv(65_536)
            assert data.startswith(b"HTTP/1.1 200 OK")
            connection.sendall(head(body))
