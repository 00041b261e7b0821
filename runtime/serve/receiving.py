"""What comes from a client: its body, and its leaving.

Enters: ASGI's `receive`. Leaves: a body within the limit; or an end to all that was done for a client that has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive, Scope

from pumice.serve.refusals import ClientGoneError, RefusalError

T = TypeVar("T")


def declared_bytes(scope: Scope, most: int) -> int:
    """Bytes that the body has by its header; `most` where it does not say.

    Raises:
        RefusalError: more than `most`, or no number.
    """
    length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
    if length is None:
        return most
    if not length.isdigit() or len(length) > 18:
        raise RefusalError("Content-Length is no number of bytes")
    if int(length) > most:
        raise too_large(int(length), most)
    return int(length)


async def read_body(receive: Receive, most: int) -> bytes:
    """The whole body.

    Raises:
        RefusalError: it is larger than `most` bytes; what comes then is not kept.
        ClientGoneError: the client left meanwhile.
    """
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise too_large(size, most)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


async def swallow_body(receive: Receive, most: int, seconds: float) -> None:
    """Take what a client that was refused is still sending, for a moment: else it never reads why."""

    async def swallow() -> None:
        taken = 0
        while taken < most:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
            taken += len(message.get("body", b""))

    try:
        await asyncio.wait_for(swallow(), seconds)
    except TimeoutError:
        return


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives; it is cancelled where the client leaves, and waited for.

    Raises:
        ClientGoneError: the client has left.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def too_large(size: int, most: int) -> RefusalError:
    """A body over the limit."""
    return RefusalError(
        f"the request has {size:,} bytes or more, at most {most:,} are accepted: send fewer or smaller images",
        status=413,
        code="request_too_large",
    )
