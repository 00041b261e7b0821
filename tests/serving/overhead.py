"""What HTTP costs over the same engine in process: a request, a token, and of the throughput.

Both sides ask the same engine in turn, so that a change of the machine's speed meets both; medians of pairs. The client
shares the process with the server, so that its own cost counts as the server's.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.runtime.serve.running import CHAT, PATIENCE, Running, question, running
from tests.serving.bounds import Bounds
from tests.serving.figures import Figure

TOKENS = 200
_ENGINE: dict[str, Any] = {"do_sample": False, "eos_token_id": []}


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """Short answers, then long ones that are streamed, then eight at a time."""
    pairs = int(bounds.requests)
    with running(bundle, slots=8) as server:
        for stream, tokens in ((False, 1), (True, TOKENS)):
            _pair(server, tokens, stream=stream)
            found = [
                _pair(server, tokens, stream=stream) for _ in range(pairs if tokens == 1 else pairs // 3)
            ]
            wall = statistics.median(http - engine for (http, _), (engine, _) in found)
            cpu = statistics.median(http - engine for (_, http), (_, engine) in found)
            if not stream:
                request = cpu
                yield Figure(
                    check="overhead", what="a request, processor time", value=cpu * 1e3, unit="ms", most=2
                )
                yield Figure(check="overhead", what="a request, wall", value=wall * 1e3, unit="ms")
            else:
                token = (cpu - request) / TOKENS
                yield Figure(
                    check="overhead",
                    what="a streamed token, processor time",
                    value=token * 1e6,
                    unit="µs",
                    most=30,
                )
                yield Figure(
                    check="overhead", what="a streamed token, wall", value=(wall / TOKENS) * 1e6, unit="µs"
                )
        yield from _throughput(server, max(3, pairs // 60))


def _pair(server: Running, tokens: int, *, stream: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """Seconds of wall and processor over HTTP, and of the engine alone."""
    engine = server.loaded.engine
    body = _body(tokens, stream=stream)
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.connect()
    try:
        began, used = time.perf_counter(), time.process_time()
        connection.request("POST", CHAT, body)
        connection.getresponse().read()
        http = time.perf_counter() - began, time.process_time() - used
    finally:
        connection.close()
    began, used = time.perf_counter(), time.process_time()
    if stream:
        engine.follow(_asked(), follower=lambda _: None, max_new_tokens=tokens, **_ENGINE).result(PATIENCE)
    else:
        engine.submit(_asked(), max_new_tokens=tokens, **_ENGINE).result(PATIENCE)
    return http, (time.perf_counter() - began, time.process_time() - used)


def _asked() -> str:
    return "What is this?"


def _body(tokens: int, *, stream: bool) -> bytes:
    return json.dumps(question(_asked(), max_tokens=tokens, ignore_eos=True, stream=stream)).encode()


def _throughput(server: Running, rounds: int) -> Iterator[Figure]:
    """Tokens a second of eight clients, whole and streamed, beside eight requests at once in process; the best of each."""
    body = {stream: _body(TOKENS, stream=stream) for stream in (False, True)}

    def over_http(stream: bool) -> None:
        server.post(CHAT, body[stream])

    def in_process(_: bool) -> None:
        server.loaded.engine.submit(_asked(), max_new_tokens=TOKENS, **_ENGINE).result(PATIENCE)

    best = {"whole": 0.0, "streamed": 0.0, "in process": 0.0}
    with ThreadPoolExecutor(8) as pool:
        for _ in range(rounds):
            for name, work in (("in process", in_process), ("whole", over_http), ("streamed", over_http)):
                began = time.perf_counter()
                list(pool.map(work, [name == "streamed"] * 24))
                best[name] = max(best[name], 24 * TOKENS / (time.perf_counter() - began))
    yield Figure(
        check="overhead", what="in process, eight at once", value=best["in process"], unit="tokens/s"
    )
    for name in ("whole", "streamed"):
        share = best[name] / best["in process"]
        yield Figure(check="overhead", what=f"throughput of eight clients over that, {name}", value=share)
