"""What other threads tell a task of the event loop.

Enters: items, from any thread. Leaves: all that came since the last look, in order. The loop is woken once for items
that come together, however many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """For one reader, in the event loop that runs when it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[T] = deque()
        self._there = asyncio.Event()
        self._waking = False

    def put(self, item: T) -> None:
        """Add an item; returns at once. One for a loop that is closed is lost."""
        self._items.append(item)
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    async def wait(self, seconds: float) -> bool:
        """Whether there is anything, once there is, or after so many seconds."""
        if not self._items:
            self._there.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._there.wait(), seconds)
        return bool(self._items)

    async def take(self) -> list[T]:
        """All that there is, once there is any."""
        while not self._items:
            self._there.clear()
            await self._there.wait()
        taken = []
        while self._items:
            taken.append(self._items.popleft())
        return taken

    def _wake(self) -> None:
        self._waking = False  # before the reader looks: what comes after it wakes anew
        self._there.set()
