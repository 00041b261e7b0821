"""A small client in an event loop: hundreds of connections, and whatever bytes one likes.

Enters: a request's parts. Leaves: the whole response with its times; or nothing, for a client that leaves early.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.runtime.serve.running import CHAT, PATIENCE, Answer


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A response, and seconds until its first byte and its last."""

    answer: Answer
    first_s: float
    seconds: float


async def ask(
    port: int,
    body: bytes | None = None,
    *,
    path: str = CHAT,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
) -> Timed:
    """One request on a connection of its own; `headers` may replace Host."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    try:
        writer.write(_head(method, path, body, headers or {}) + (body or b""))
        first = await asyncio.wait_for(reader.readline(), PATIENCE)
        first_s = time.perf_counter() - began
        data = await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()
    return Timed(answer=_answer(first + data), first_s=first_s, seconds=time.perf_counter() - began)


async def leave(port: int, body: bytes, after_s: float) -> None:
    """Ask, and be gone after so many seconds."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_head("POST", CHAT, body, {}) + body)
    await asyncio.sleep(after_s)
    writer.close()


def _head(method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    given = {"Host": "localhost", "Connection": "close"} | dict(headers)
    if body is not None:
        given.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _answer(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    status = first.split(" ")[1] if first.startswith("HTTP/1.1 ") else "0"
    return Answer(int(status), headers, body)


def _unchunked(data: bytes) -> bytes:
    pieces = []
    while data:
        size, _, data = data.partition(b"\r\n")
        count = int(size or b"0", 16)
        pieces.append(data[:count])
        data = data[count + 2 :] if count else b""
    return b"".join(pieces)
