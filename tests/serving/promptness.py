"""Nobody waits in silence: first bytes while an image is prepared, health while large ones are, refusals of 20 MB."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import PATIENCE, Running, image_part, png, question, received, running, text
from tests.runtime.serve.test_leaving import connected, head, hold
from tests.serving.bounds import Bounds
from tests.serving.client import ask
from tests.serving.figures import Figure, quantile
from tests.serving.polling import ROOT, polling
from tests.serving.process import Served, served

TIMES, MEGABYTES = 40, 20


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """All of them."""
    yield from _first_byte(bundle)
    yield from _health(bundle, int(bounds.polls))
    yield from _own_delay(bundle, int(bounds.polls))
    yield from _refusal(bundle)


def _first_byte(bundle: Path) -> Iterator[Figure]:
    """The image's preparation stands for as long as a byte is waited for."""
    found = []
    with running(bundle) as server:
        body = json.dumps(
            question([image_part(png()), text("The one that leaves")], stream=True, max_tokens=1)
        ).encode()
        for _ in range(TIMES):
            gate = Gate()
            with pytest.MonkeyPatch.context() as patch:
                hold("preparing", gate, patch)
                began = time.perf_counter()
                with connected(server, head(body)) as connection:
                    assert received(connection, b"data: ").startswith(b"HTTP/1.1 200")
                    found.append(time.perf_counter() - began)
                    assert not gate.opened.is_set()
                    gate.open()
                    received(connection, b"[DONE]")
    for name, share in (("median", 0.5), ("slowest", 1.0)):
        bound = 100 if share == 1 else None
        what = f"first byte while an image is prepared, {name} of {TIMES}"
        yield Figure(check="promptness", what=what, value=quantile(found, share) * 1e3, unit="ms", most=bound)


def _large(number: int) -> bytes:
    """A JPEG of 12 megapixels, another one each."""
    file = BytesIO()
    small = Image.effect_noise((400, 300), 60 + number).convert("RGB")
    small.resize((4000, 3000)).save(file, "JPEG", quality=85)
    return file.getvalue()


def _bodies() -> list[bytes]:
    return [
        json.dumps(question([image_part(_large(number), "jpeg"), text("?")], max_tokens=1)).encode()
        for number in range(8)
    ]


def _health(bundle: Path, polls: int) -> Iterator[Figure]:
    """Eight clients send one after the other until all polls are answered."""
    bodies = _bodies()
    with served(bundle, "--slots", 8) as server:
        with polling(server.port, "/health", polls) as quiet:
            time.sleep(polls * 0.02)
        read, found = asyncio.run(_polled(server, polls, bodies))
    yield Figure(
        check="promptness",
        what="/health, p99, nothing else to do",
        value=quantile(quiet, 0.99) * 1e3,
        unit="ms",
    )
    yield Figure(
        check="promptness",
        what="images of 12 megapixels read meanwhile, eight at a time",
        value=read,
        least=8,
    )
    for name, share, most in (("median", 0.5, None), ("p99", 0.99, 50)):
        what = f"/health while they are read, {name} of {polls}"
        yield Figure(check="promptness", what=what, value=quantile(found, share) * 1e3, unit="ms", most=most)


async def _polled(server: Served, polls: int, bodies: list[bytes]) -> tuple[int, list[float]]:
    """Images that were read while the polls were made, and seconds of each."""
    read, ended = 0, False

    async def client(body: bytes) -> None:
        nonlocal read
        while not ended:
            answer = (await ask(server.port, body)).answer
            assert answer.status == 200, answer.body
            read += 1

    clients = [asyncio.create_task(client(body)) for body in bodies]

    def poll() -> list[float]:
        with polling(server.port, "/health", polls, whole=True) as found:
            pass
        return found

    found = await asyncio.to_thread(poll)
    ended = True
    await asyncio.gather(*clients)
    return read, found


def _own_delay(bundle: Path, polls: int) -> Iterator[Figure]:
    """How long the event loop is held up by what the server itself computes: on a busy machine, too."""
    found = []
    with running(bundle, slots=8) as server:
        command = [sys.executable, "-m", "tests.serving.promptness", str(server.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as clients:
            assert clients.stdout is not None
            try:
                clients.stdout.readline()
                for _ in range(polls):
                    found.append(_delayed(server))
                    time.sleep(0.005)
            finally:
                clients.kill()
        read = server.loaded.engine.counters.finished
    yield Figure(
        check="promptness",
        what="images of 12 megapixels read meanwhile, by a server in process",
        value=read,
        least=1,
    )
    for name, share, most in (("p99", 0.99, 50), ("longest", 1.0, None)):
        what = f"processor time of the server between an event and its turn, {name}"
        yield Figure(check="promptness", what=what, value=quantile(found, share) * 1e3, unit="ms", most=most)


def _delayed(server: Running) -> float:
    """Processor seconds of the process until the loop comes to a callback."""
    there, used = threading.Event(), time.process_time()
    at: list[float] = []

    def note() -> None:
        at.append(time.process_time())
        there.set()

    server.loop.call_soon_threadsafe(note)
    there.wait()
    return at[0] - used


async def _read_on(port: int) -> None:
    """Eight clients, until the process is killed."""
    bodies = _bodies()
    print("begun", flush=True)

    async def client(body: bytes) -> None:
        while True:
            await ask(port, body)

    await asyncio.gather(*(client(body) for body in bodies))


def _refusal(bundle: Path) -> Iterator[Figure]:
    """Twenty megabytes for a queue that is full: refused by the head alone, of which nothing is kept."""
    with served(bundle, "--slots", 1, "--max-queue", 1) as server:
        slow: dict[str, Any] = question("Count.", max_tokens=1900, ignore_eos=True)
        busy = json.dumps(slow).encode()
        body = b'{"messages": "' + b"x" * (MEGABYTES * 10**6) + b'"}'
        times, rise, other = asyncio.run(_refused(server, busy, body))
    yield Figure(
        check="promptness", what=f"429 for {MEGABYTES} MB with a full queue, times", value=len(times), least=1
    )
    yield Figure(check="promptness", what="… neither 200 nor 429", value=other, most=0)
    yield Figure(
        check="promptness",
        what="… its first byte, median",
        value=quantile(times, 0.5) * 1e3,
        unit="ms",
        most=50,
    )
    yield Figure(
        check="promptness", what="… its first byte, slowest", value=quantile(times, 1) * 1e3, unit="ms"
    )
    yield Figure(check="promptness", what="… rise of resident memory", value=rise, unit="MiB", most=300)


def _sent(server: Served, data: bytes) -> tuple[bytes, float]:
    """What comes first, and when, while a thread goes on sending."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(data[:1000])

        def send() -> None:
            with contextlib.suppress(OSError):
                connection.sendall(memoryview(data)[1000:])

        sending = threading.Thread(target=send)
        sending.start()
        first = connection.recv(1000)
        seconds = time.perf_counter() - began
        sending.join()
        while connection.recv(65_536):
            pass
    return first, seconds


async def _refused(server: Served, busy: bytes, body: bytes) -> tuple[list[float], float, int]:
    ended = False

    async def client() -> None:
        while not ended:
            if (await ask(server.port, busy)).answer.status == 429:
                await asyncio.sleep(0.05)

    await ask(server.port, busy)
    clients = [asyncio.create_task(client()) for _ in range(6)]
    while (await ask(server.port, b"{")).answer.status != 429:
        await asyncio.sleep(0.01)
    sent = head(body)
    before, highest, times, other = server.mib, 0.0, [], 0
    for _ in range(TIMES):
        first, seconds = await asyncio.to_thread(_sent, server, sent)
        highest = max(highest, server.mib)
        if first.startswith(b"HTTP/1.1 429 "):
            times.append(seconds)
        else:
            other += not first.startswith(b"HTTP/1.1 400 ")  # a place was free: the body is no chat
    ended = True
    await asyncio.gather(*clients)
    return times, highest - before, other


if __name__ == "__main__":
    asyncio.run(_read_on(int(sys.argv[1])))
