"""Text on its way from a thread into an event loop.

Enters: pieces, from the step thread. Leaves: the same pieces, in a coroutine. The thread never waits: what nobody reads
is kept, and one call wakes the loop for all that came before it looked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class AsyncText:
    """Pieces of one answer, then None; for one reader, in the event loop that runs when it is made."""

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
        return self._pieces.popleft()

    def _put(self, piece: str | None) -> None:
        self._pieces.append(piece)
        if not self._waking or self._loop.is_closed():  # a loop may be closed before it wakes
            self._waking = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False  # before the reader looks: what comes after it wakes anew
        self._there.set()
