"""What other threads tell a task of the event loop.

Enters: items, from any thread. Leaves: all that came since the last look, in order. The loop is woken for
the first item that its reader waits for, and for none that come while it is busy.
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
        self._wanted = False

    def put(self, item: T) -> None:
        """Add an item; returns at once. One for a loop that is closed is lost."""
        self._items.append(item)
        if self._wanted:  # looked at after the item is there, as the reader looks for items after it was set
            self._wanted = False
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._there.set)

    async def wait(self, seconds: float) -> bool:
        """Whether there is anything, once there is, or after so many seconds."""
        if not self._items:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken(), seconds)
        return bool(self._items)

    async def take(self) -> list[T]:
        """All that there is, once there is any."""
        while not self._items:
            await self._woken()
        taken = []
        while self._items:
            taken.append(self._items.popleft())
        return taken

    async def _woken(self) -> None:
        self._there.clear()
        self._wanted = True
        if not self._items:
            await self._there.wait()
        self._wanted = False
