"""Answers of an engine piece by piece, for threads and for asyncio.

Enters: text from the step thread, which never waits for whoever reads it. Leaves: pieces, and the whole in the end.

A stream that nobody holds any more is cancelled: the engine knows where its text goes, but not the stream itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType

from pumice.errors import EngineClosedError, UsageError
from pumice.result import Generation
from pumice.stream import read_twice


class AsyncText:
    """Pieces of one answer, then None for ever; for one reader, in the event loop that runs when it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[str | None] = deque()
        self._there = asyncio.Event()
        self._waking = False

    def put(self, piece: str) -> None:
        """Add a piece.

        Raises:
            RuntimeError: the event loop is closed.
        """
        self._put(piece)

    def end(self) -> None:
        """Nothing comes after this."""
        with suppress(RuntimeError):  # the event loop is closed: nobody reads
            self._put(None)

    async def get(self) -> str | None:
        """The next piece; None in the end."""
        while not self._pieces:
            self._there.clear()
            if not self._pieces:
                await self._there.wait()
        return self._pieces.popleft() if self._pieces[0] is not None else None  # the end is everybody's

    def _put(self, piece: str | None) -> None:
        self._pieces.append(piece)
        if not self._waking or self._loop.is_closed():  # a loop may be closed before it wakes
            self._waking = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False  # before the reader looks: what comes after it wakes anew
        self._there.set()


Answers = Future[list[Generation]]


class EngineStream(Iterator[str]):
    """Iterate over it for the pieces of an answer; `result` has the whole once it has ended, or was cancelled.

    Made by `Engine.stream`. The engine works whether or not anybody reads; leaving the stream's context, or letting go
    of it, cancels it. Where several answers are made, the best is one piece in the end, and `results` has all.
    """

    def __init__(self, pieces: SimpleQueue[str | None], future: Answers, cancel: Callable[[], None]) -> None:
        self._pieces, self._future, self._cancel = pieces, future, cancel
        self._shown = self._ended = self._cancelled = False
        self._reading = threading.Lock()

    def __iter__(self) -> EngineStream:
        return self

    def __next__(self) -> str:
        if not self._reading.acquire(blocking=False):
            raise read_twice()
        try:
            return self._next()
        finally:
            self._reading.release()

    def _next(self) -> str:
        piece = None if self._ended else self._pieces.get()
        if piece is None:
            piece = self._last_piece()
        if not piece:
            raise StopIteration
        self._shown = True
        return piece

    def __enter__(self) -> EngineStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self._future.cancel()

    @property
    def result(self) -> Generation:
        """The whole answer, the best of several.

        Raises:
            UsageError: it has not ended, or was cancelled before it was begun.
            PumiceError: it failed.
        """
        return self.results[0]

    @property
    def results(self) -> list[Generation]:
        """All answers, best first. Raises as `result`."""
        if not self._cancelled:
            _check_ended(self._future)
        return _answers(self._future, self._cancelled)  # a cancelled one is settled within a kernel

    def cancel(self) -> None:
        """End the answer where it is (`finish_reason` is `cancelled`); no effect on one that has ended or failed.

        May be called by any thread; pieces that were ready can be read still.
        """
        if not self._future.done():
            self._cancelled = True
            self._cancel()

    def _last_piece(self) -> str:
        """The whole answer where it was not shown in pieces."""
        over, self._ended = self._ended or self._cancelled, True
        if over:
            return ""
        answers = _answers(self._future, cancelled=False)
        return "" if self._shown else answers[0].text


class AsyncEngineStream(AsyncIterator[str]):
    """`async for` over it for the pieces of an answer; `result` has the whole once it has ended, or was closed.

    Made by `Engine.astream`, for the event loop that runs then. Breaking out of the loop (where nobody else holds the
    stream), `aclose`, leaving its context, and cancelling the task that waits for a piece all cancel the request.
    """

    def __init__(self, text: AsyncText, future: Answers, cancel: Callable[[], None]) -> None:
        self._text, self._future, self._cancel = text, future, cancel
        self._shown = self._ended = self._cancelled = self._reading = False

    def __aiter__(self) -> AsyncEngineStream:
        return self

    async def __anext__(self) -> str:
        if self._reading:
            raise read_twice()
        self._reading = True
        try:
            piece = None if self._ended else await self._next_piece()
        finally:
            self._reading = False
        if piece is None:
            piece = self._last_piece()
        if not piece:
            raise StopAsyncIteration
        self._shown = True
        return piece

    async def __aenter__(self) -> AsyncEngineStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._future.cancel()

    @property
    def result(self) -> Generation:
        """The whole answer, the best of several. Raises as `EngineStream.result`."""
        return self.results[0]

    @property
    def results(self) -> list[Generation]:
        """All answers, best first. Raises as `result`."""
        _check_ended(self._future)
        return _answers(self._future, self._cancelled)

    async def aclose(self) -> None:
        """End the answer where it is, and wait until it has ended; no effect on one that has."""
        self._stop()
        while not self._ended:
            self._ended = await self._text.get() is None

    async def _next_piece(self) -> str | None:
        try:
            return await self._text.get()
        except asyncio.CancelledError:
            self._stop()
            raise

    def _stop(self) -> None:
        if not self._future.done():
            self._cancelled = True
            self._cancel()

    def _last_piece(self) -> str:
        over, self._ended = self._ended or self._cancelled, True
        if over:
            return ""
        answers = _answers(self._future, cancelled=False)
        return "" if self._shown else answers[0].text


def _check_ended(future: Answers) -> None:
    if not future.done():
        raise UsageError(
            "the answer has not ended: iterate over the stream, or cancel it, before asking for its result"
        )


def _answers(future: Answers, cancelled: bool) -> list[Generation]:
    try:
        return future.result()
    except CancelledError:
        if cancelled:
            raise UsageError("the answer was cancelled before it was begun: it has no result") from None
        raise closed_early() from None


def closed_early() -> EngineClosedError:
    """The error for whoever waits for an answer when the engine is closed without finishing it."""
    return EngineClosedError("the engine was closed before the answer ended: close it with drain=True")
