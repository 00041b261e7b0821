"""What HTTP costs over the same engine in process: a request, a token, and of the throughput.

Both sides ask the same engine in turn, so that a change of the machine's speed meets both; medians of pairs. Processor
time is the process's without the thread that asks.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.runtime.serve.running import CHAT, PATIENCE, Running, question, running
from tests.serving.bounds import Bounds
from tests.serving.figures import Figure

TOKENS, ASKED = 200, 24
_ENGINE: dict[str, Any] = {"do_sample": False, "eos_token_id": []}


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """Short answers, then long ones that are streamed, then eight at a time."""
    pairs = int(bounds.requests)
    with running(bundle, slots=8) as server:
        for stream, tokens in ((False, 1), (True, TOKENS)):
            _pair(server, tokens, stream=stream)
            count, used = pairs if tokens == 1 else pairs // 3, _loop_time(server)
            found = [_pair(server, tokens, stream=stream) for _ in range(count)]
            loop = (_loop_time(server) - used) / count
            wall = statistics.median(http - engine for (http, _), (engine, _) in found)
            cpu = statistics.median(http - engine for (_, http), (_, engine) in found)
            if not stream:
                request, loop_request = cpu, loop
                yield Figure(
                    check="overhead", what="a request, processor time", value=cpu * 1e3, unit="ms", most=2
                )
                yield Figure(check="overhead", what="a request, wall", value=wall * 1e3, unit="ms")
            else:
                token = (cpu - request) / TOKENS
                of_loop = (loop - loop_request) / TOKENS * 1e6
                what = "a streamed token, processor time of the event loop"
                yield Figure(check="overhead", what=what, value=of_loop, unit="µs", most=30)
                what = "a streamed token, processor time of all threads (a small difference of large numbers)"
                yield Figure(check="overhead", what=what, value=token * 1e6, unit="µs")
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
        began, used = time.perf_counter(), _others_time()
        connection.request("POST", CHAT, body)
        connection.getresponse().read()
        http = time.perf_counter() - began, _others_time() - used
    finally:
        connection.close()
    began, used = time.perf_counter(), _others_time()
    if stream:
        engine.follow(_asked(), follower=lambda _: None, max_new_tokens=tokens, **_ENGINE).result(PATIENCE)
    else:
        engine.submit(_asked(), max_new_tokens=tokens, **_ENGINE).result(PATIENCE)
    return http, (time.perf_counter() - began, _others_time() - used)


def _loop_time(server: Running) -> float:
    """Processor seconds of the event loop's thread so far."""
    found: Future[float] = Future()
    server.loop.call_soon_threadsafe(lambda: found.set_result(time.thread_time()))
    return found.result(PATIENCE)


def _others_time() -> float:
    """Processor seconds of all threads but this one."""
    return time.process_time() - time.thread_time()


def _asked() -> str:
    return "What is this?"


def _body(tokens: int, *, stream: bool) -> bytes:
    return json.dumps(question(_asked(), max_tokens=tokens, ignore_eos=True, stream=stream)).encode()


def _throughput(server: Running, rounds: int) -> Iterator[Figure]:
    """Tokens a second of eight clients, whole and streamed, beside eight requests in process."""
    body = {stream: _body(TOKENS, stream=stream) for stream in (False, True)}

    def over_http(stream: bool) -> None:
        server.post(CHAT, body[stream])

    def in_process(_: bool) -> None:
        server.loaded.engine.submit(_asked(), max_new_tokens=TOKENS, **_ENGINE).result(PATIENCE)

    spent: dict[str, list[float]] = {"in process": [], "whole": [], "streamed": []}
    speeds: dict[str, float] = dict.fromkeys(spent, 0.0)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(rounds):
            for name, found in spent.items():
                work = in_process if name == "in process" else over_http
                began, used = time.perf_counter(), time.process_time()
                list(pool.map(work, [name == "streamed"] * ASKED))
                found.append(time.process_time() - used)
                speeds[name] = max(speeds[name], ASKED * TOKENS / (time.perf_counter() - began))
    for name, speed in speeds.items():
        yield Figure(
            check="overhead", what=f"eight at once, {name}, best round", value=speed, unit="tokens/s"
        )
    for name in ("whole", "streamed"):
        share = statistics.median(spent["in process"]) / statistics.median(spent[name])
        what = f"throughput a processor second over that in process, {name}"
        yield Figure(check="overhead", what=what, value=share)
