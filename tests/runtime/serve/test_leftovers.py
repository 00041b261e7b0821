"""Nothing of a request stays behind it: objects, files, threads; however it ended."""

from __future__ import annotations

import gc
import json
import threading
from pathlib import Path

import psutil
import pytest

from pumice.engine.submission import Submission
from pumice.serve.answers import Answers
from pumice.serve.server import Record
from tests.runtime.serve.running import Running, eventually, image_part, png, question, running, text
from tests.runtime.serve.test_leaving import connected, head

KINDS = (Answers, Record, Submission)


def left_behind(*, collected: bool = True) -> int:
    """Objects of requests, those of other tests' servers included."""
    if collected:
        gc.collect()
    return sum(type(each) in KINDS for each in gc.get_objects())


def threads() -> int:
    """Without those that check requests, of which there are as many as were needed at once, and a bound."""
    return sum(not each.name.startswith("pumice-serve-check") for each in threading.enumerate())


def rounds(server: Running, count: int) -> None:
    """Answers, streams, refusals, and clients that leave."""
    for number in range(count):
        content = [image_part(png("teal", (20 + number, 30))), text("What?")]
        assert server.chat(content, max_tokens=3).status == 200
        assert server.chat("Hi", max_tokens=3, stream=True).status == 200
        assert server.chat([image_part(png(size=(300, 300))[:-30])]).status == 400
        assert server.post("/v1/chat/completions", b"{").status == 400
        assert server.get("/v1/nothing").status == 404
        body = json.dumps(
            question(content, max_tokens=1500, ignore_eos=True, stream=number % 2 == 0)
        ).encode()
        connected(server, head(body)).close()
        connected(server, head(body[:50], len(body) - 50)).close()
    eventually(server.idle)
    eventually(lambda: not server.app.server.tally.in_flight)


def test_nothing_stays_behind(pebble_bundle: Path) -> None:
    process, others = psutil.Process(), left_behind()
    with running(pebble_bundle, slots=2) as server:
        rounds(server, 4)  # so that all threads are there
        eventually(lambda: left_behind() <= others)
        files, before = process.num_fds(), threads()
        rounds(server, 8)
        eventually(lambda: left_behind() <= others)
        eventually(lambda: process.num_fds() <= files)
        eventually(lambda: threads() <= before)


def test_nothing_waits_for_the_collector(pebble_bundle: Path) -> None:
    """It counts objects: of a request's twenty megabytes it knows nothing."""
    others = left_behind()
    with running(pebble_bundle, slots=2) as server:
        rounds(server, 2)
        eventually(lambda: left_behind() <= others)
        gc.disable()
        try:
            rounds(server, 3)
            eventually(lambda: left_behind(collected=False) <= others)
        finally:
            gc.enable()


def test_the_memory_of_large_requests_goes_back_once(
    pebble_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[str] = []
    monkeypatch.setattr("pumice.serve.server.trim", lambda: trims.append("trim"))
    with running(pebble_bundle) as server:
        assert server.chat("Hi", max_tokens=1).status == 200
        assert not server.app.server.trims
        for image in (png(), png()[:-30]):
            padded = [image_part(image + bytes(5 << 20)), text("What?")]
            server.chat(padded, max_tokens=1)
        eventually(lambda: trims)
        eventually(lambda: not server.app.server.trims)
    assert len(trims) <= 2
