"""Images by their addresses, where the server was told to fetch any: of listed hosts, a few at a time, bounded.

Enters: a request's messages. Leaves: the bytes behind each address in them, of which nothing was looked at. A name is
resolved once, and what is asked is that number. Redirects are not followed, proxies and cookies are not known, nothing
is unpacked. Whoever waits may be cancelled: the connection is closed then.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httptools

from pumice.serve.allowed import AllowedHosts, Target
from pumice.serve.refusals import RefusalError
from pumice.serve.wire import Message

SECONDS = 5.0
"""For one image, from its name to its last byte."""
MOST_BYTES = 20 * 2**20
AT_ONCE = 3
_HEAD_BYTES = 2**16
_PIECE = 2**16
_NAMES = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pumice-serve-names")
_HTTP = re.compile(r"\s*https?:", re.IGNORECASE)


class Fetching:
    """For one event loop. `most_bytes` are those of one request's images together."""

    def __init__(self, hosts: Sequence[str], most_bytes: int) -> None:
        self._allowed, self._most_bytes = AllowedHosts(hosts), most_bytes
        self._places = asyncio.Semaphore(AT_ONCE)
        self._tls = ssl.create_default_context() if self._allowed else None

    async def fetched(
        self, messages: Sequence[Message], place: Callable[[int], str], took: Callable[[int], None]
    ) -> dict[str, bytes]:
        """The images by their addresses; `took` hears of their bytes.

        Raises:
            RefusalError: an address that is not allowed, before any is asked; or one that gave no image.
        """
        if not self._allowed:
            return {}
        wanted = {url: param for param, url in addresses(messages, place)}
        targets = {url: self._allowed.target(url, param) for url, param in wanted.items()}
        found: dict[str, bytes] = {}

        async def fetch(url: str) -> None:
            data = await self._one(targets[url], wanted[url])
            found[url] = data
            took(len(data))
            if sum(map(len, found.values())) > self._most_bytes:
                why = f"all of the request may have {self._most_bytes:,} bytes together"
                raise _failed(targets[url], wanted[url], why, code="image_too_large")

        tasks = [asyncio.ensure_future(fetch(url)) for url in targets]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return found

    async def _one(self, target: Target, param: str) -> bytes:
        async with self._places:
            try:
                async with asyncio.timeout(SECONDS):
                    numbers = await self._numbers(target)
                    if not numbers or not all(self._allowed.may_reach(each, target) for each in numbers):
                        raise _failed(target, param, "its name leads to no public address")
                    return await self._asked(target, numbers, param)
            except TimeoutError:
                raise _failed(target, param, f"it took more than {SECONDS:g} seconds") from None
            except (OSError, httptools.HttpParserError, httptools.HttpParserUpgrade):
                raise _failed(target, param, "the connection failed") from None

    async def _numbers(self, target: Target) -> list[str]:
        """What a name leads to, asked once."""
        if target.literal is not None:
            return [target.literal]
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(_NAMES, _resolved, target.host, target.port)
        return list(dict.fromkeys(found))

    async def _asked(self, target: Target, numbers: Sequence[str], param: str) -> bytes:
        """The body of the answer of the first number that can be reached."""
        for number in numbers:
            try:
                reader, writer = await self._connected(target, number)
            except OSError:
                if number == numbers[-1]:
                    raise
                continue
            break
        try:
            writer.write(_question(target))
            return await _body(reader, target, param)
        finally:
            writer.transport.abort()

    async def _connected(
        self, target: Target, number: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if target.scheme == "http":
            return await asyncio.open_connection(number, target.port, limit=_PIECE)
        name = target.host.strip("[]")
        return await asyncio.open_connection(
            number, target.port, limit=_PIECE, ssl=self._tls, server_hostname=name
        )


def addresses(messages: Sequence[Message], place: Callable[[int], str]) -> Iterator[tuple[str, str]]:
    """Every address of an image, with its place in the request."""
    for i, message in enumerate(messages):
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if not isinstance(part, dict) or part.get("type") not in ("image_url", "input_image"):
                continue
            value: Any = part.get("image_url")
            if part["type"] == "image_url":
                value = value.get("url") if isinstance(value, dict) else None
            if isinstance(value, str) and _HTTP.match(value[:64]):
                yield f"{place(i)}.content[{j}].image_url", value


def _resolved(host: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _question(target: Target) -> bytes:
    lines = [
        f"GET {target.path} HTTP/1.1",
        f"Host: {target.authority}",
        "User-Agent: pumice",
        "Accept: image/*",
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


class _Response:
    """What httptools tells of an answer."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.size = 0
        self.headed = self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head's end."""
        self.headed = True

    def on_body(self, piece: bytes) -> None:
        """Some of the body."""
        self.pieces.append(piece)
        self.size += len(piece)

    def on_message_complete(self) -> None:
        """The body's end, where it is told beforehand."""
        self.complete = True


async def _body(reader: asyncio.StreamReader, target: Target, param: str) -> bytes:
    """The body of an answer that is an image's for all that its head says."""
    response = _Response()
    parser = httptools.HttpResponseParser(response)
    read = 0
    while not response.complete and (data := await reader.read(_PIECE)):
        headed, read = response.headed, read + len(data)
        parser.feed_data(data)
        if response.headed and not headed:
            _check_head(parser.get_status_code(), response.headers, target, param)
        if response.size > MOST_BYTES or read > 2 * MOST_BYTES:
            raise _too_large(target, param)
        if not response.headed and read > _HEAD_BYTES:
            raise _failed(target, param, "the head of its answer does not end")
    bounded = response.headers.keys() & {b"content-length", b"transfer-encoding"}
    if not response.headed or (bounded and not response.complete):
        raise _failed(target, param, "the connection ended early")
    return b"".join(response.pieces)


def _check_head(status: int, headers: dict[bytes, bytes], target: Target, param: str) -> None:
    if 300 <= status < 400:
        raise _failed(target, param, "it redirects, and redirects are not followed")
    if status != 200:
        raise _failed(target, param, f"its status is {status}")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise _failed(target, param, "its answer is packed")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > MOST_BYTES:
        raise _too_large(target, param)


def _too_large(target: Target, param: str) -> RefusalError:
    return _failed(target, param, f"at most {MOST_BYTES:,} bytes are fetched", code="image_too_large")


def _failed(target: Target, param: str, why: str, *, code: str = "invalid_image_url") -> RefusalError:
    return RefusalError(
        f"the image at {target.authority} could not be fetched: {why}", param=param, code=code
    )
