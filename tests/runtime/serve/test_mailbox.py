"""What comes together wakes the loop once: the cost of a token is that of its bytes."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from pumice.serve.mailbox import Mailbox


def test_items_that_come_together_are_taken_together() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        mail: Mailbox[int] = Mailbox()
        woken: list[Any] = []
        real = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *rest, **more: (woken.append(rest), real(*rest, **more))[1]  # type: ignore
        for first in (0, 100):
            numbers = range(first, first + 100)
            reader = asyncio.ensure_future(mail.take())
            await asyncio.sleep(0)  # it waits
            writer = threading.Thread(target=lambda numbers=numbers: [mail.put(n) for n in numbers])
            writer.start()
            writer.join()  # the loop has not run meanwhile
            assert await reader == list(numbers)
        assert len(woken) == 2
        mail.put(7)  # nobody waits
        assert len(woken) == 2
        assert await mail.take() == [7]

    asyncio.run(main())
