"""A response that is sent while it is made: its head at once, a sign of life while nothing else comes.

Enters: chunks as they are ready. Leaves: the same on their way to the client; they are no longer made once it has left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from pumice.errors import PumiceError
from pumice.serve.receiving import unless_gone
from pumice.serve.refusals import RefusalError, refusal_of, untangle

_log = logging.getLogger("pumice.serve")


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """An ASGI response of chunks.

    Args:
        chunks: what is sent; what it raises is told by `told`, and then the response ends.
        media_type: of the response.
        beat: gives what is sent after `every` seconds of silence.
        told: an error as the dialect has it in a stream.
    """

    chunks: AsyncIterator[bytes]
    media_type: str
    beat: Callable[[], bytes]
    every: float
    told: Callable[[RefusalError], bytes]

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send it.

        Raises:
            ClientGoneError: the client has left.
        """
        headers = [
            (b"content-type", self.media_type.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await unless_gone(receive, self._send(send))
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, send: Send) -> None:
        """All chunks, and beats in their pauses; never two at once."""
        sending = asyncio.Lock()
        last = asyncio.get_running_loop().time()

        async def write(data: bytes) -> None:
            nonlocal last
            async with sending:
                last = asyncio.get_running_loop().time()
                await send({"type": "http.response.body", "body": data, "more_body": True})

        async def beat() -> None:
            while True:
                silent = asyncio.get_running_loop().time() - last
                if silent >= self.every:
                    await write(self.beat())
                    silent = 0.0
                await asyncio.sleep(self.every - silent)

        beating = asyncio.ensure_future(beat())
        try:
            async for chunk in self.chunks:
                await write(chunk)
        except Exception as error:
            if not isinstance(error, PumiceError):
                _log.error("a request failed: %s", type(error).__name__, exc_info=error)
            untangle(error)
            await write(self.told(refusal_of(error)))
        finally:
            beating.cancel()
            await self.chunks.aclose()  # type: ignore[attr-defined]
