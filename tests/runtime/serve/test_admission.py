"""Who is let in: counted before a body is read, refused with when to try again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pumice.result import Generation, Timings, Usage
from pumice.serve.admission import Admission
from pumice.serve.refusals import RefusalError
from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import CHAT, PATIENCE, eventually, question, received, running
from tests.runtime.serve.test_leaving import connected, head, hold


def generation(seconds: float) -> Generation:
    timings = Timings(
        load=9, preprocess=0, vision=0, prefill=0, time_to_first_token=99, decode=seconds, tokens_per_second=1
    )
    usage = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2, image_tokens=0)
    return Generation(text="", token_ids=[1], finish_reason="stop", usage=usage, timings=timings)


def test_when_to_try_again_follows_from_what_answers_took() -> None:
    async def main() -> None:
        admission = Admission(2, 3, 1000)
        assert admission.retry_after_s == 1
        admission.served([generation(30)])
        admission.served([generation(10), generation(10)])
        assert admission.retry_after_s == 10  # one turn of two slots, 20 s each
        with admission.place(1), admission.place(1), admission.place(1), admission.place(1):
            assert admission.retry_after_s == 30
            with admission.place(1), pytest.raises(RefusalError) as refused, admission.place(1):
                pass
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        assert refused.value.headers["Retry-After"] == "40"
        for _ in range(70):
            admission.served([generation(1000)])
        assert admission.retry_after_s == 60
        assert admission.taken == 0
        await admission.empty()

    asyncio.run(main())


def test_bytes_are_counted_as_well() -> None:
    async def main() -> None:
        admission = Admission(10, 10, 1000)
        # One alone may be as large as a body may be.
        with admission.place(5000), pytest.raises(RefusalError), admission.place(1):
            pass
        with admission.place(600), admission.place(400), pytest.raises(RefusalError), admission.place(1):
            pass

    asyncio.run(main())


def test_a_full_queue_refuses_before_a_body_is_read(
    pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    with running(pebble_bundle, gate=gate, slots=1, max_queue=2) as server:
        hold("prefill", gate, monkeypatch)
        body = json.dumps(question("Hi", max_tokens=2)).encode()
        waiting = [connected(server, head(body)) for _ in range(3)]
        eventually(lambda: server.app.server.admission.taken == 3 and gate.reached.is_set())
        with connected(server, head(b"{", 20_000_000)) as refused:  # of 20 MB one byte has come
            answer = received(refused, b"}}")
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 3\r\n" in answer
        assert b'"rate_limit_error"' in answer
        assert b"rate limit" in answer
        assert server.app.server.admission.refused == 1
        assert server.get("/health").status == 200
        assert b"pumice_refused_total 1.0" in server.get("/metrics").body
        gate.open()
        for connection in waiting:
            assert received(connection, b'"timings"').startswith(b"HTTP/1.1 200")
            connection.close()
        eventually(server.idle)
        assert server.post(CHAT, body).status == 200


def test_a_flood_is_answered_or_refused(pebble_bundle: Path) -> None:
    """Whoever is let in is answered as alone; all others hear when to try again."""
    from concurrent.futures import ThreadPoolExecutor

    with running(pebble_bundle, slots=2, max_queue=6) as server:
        expected = server.chat("Hi there", max_tokens=30).text

        def ask(_: int) -> Any:
            return server.chat("Hi there", max_tokens=30)

        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(ask, range(120), timeout=PATIENCE))
        assert {answer.status for answer in answers} <= {200, 429}
        assert {answer.text for answer in answers if answer.status == 200} == {expected}
        for answer in answers:
            if answer.status == 429:
                assert 1 <= int(answer.headers["retry-after"]) <= 60
        eventually(server.idle)


def test_an_answer_that_takes_too_long(pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with running(pebble_bundle, gate=gate, deadline=0.05) as server:
        hold("preparing", gate, monkeypatch)
        connection = connected(server, head(json.dumps(question("The one that leaves")).encode()))
        assert received(connection, b"}}").startswith(b"HTTP/1.1 408 ")
        body = json.dumps(question("The one that leaves", stream=True)).encode()
        with connected(server, head(body)) as stream:
            data = b""
            while b'"timeout_error"' not in data:
                data += stream.recv(65_536)
        connection.close()
        gate.open()
        assert b"[DONE]" not in data
        eventually(server.idle)
