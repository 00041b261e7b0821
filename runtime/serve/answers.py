"""Answers from the engine's threads into the event loop, whole or piece by piece.

Enters: a `Question`. Leaves: pieces of every answer, then the whole; cancelling whoever waits cancels the request,
wherever it is: in the queue, while it is prepared, while images are encoded, in prefill and in decoding.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pumice.generation.strategy import Piece
from pumice.result import Generation
from pumice.serve.mailbox import Mailbox
from pumice.serve.refusals import draining

if TYPE_CHECKING:
    from pumice.serve.loaded import Loaded
    from pumice.serve.questions import Question

CHECKS = ThreadPoolExecutor(4, thread_name_prefix="pumice-serve-check")
"""Where requests are checked: base64, images' heads, schemas. Nothing of it belongs into the event loop."""

_LOOK_S = 0.25
"""Between looks at the place in line."""
_PACE_S = 0.001
"""Between pieces at least: where more than a thousand tokens come a second, several go at a time, for sending one
costs more than a small model's step."""


class Answers:
    """The answers to one question; made and read in the event loop."""

    def __init__(self, loaded: Loaded, question: Question, deadline: float, *, streamed: bool) -> None:
        self._loaded, self._question, self._deadline = loaded, question, deadline
        self._mail: Mailbox[list[Piece] | None] = Mailbox()
        self._streamed = streamed
        self._future: Future[Any] | None = None
        self._given_up = False
        self.results: list[Generation] = []
        """All of them once they have ended."""

    async def begin(self) -> None:
        """Ask the engine.

        Raises:
            PumiceError: what `Engine.submit` raises.
        """
        try:
            await asyncio.get_running_loop().run_in_executor(CHECKS, self._submit)
        except asyncio.CancelledError:
            self.give_up()
            raise

    async def places(self) -> AsyncGenerator[int, None]:
        """The place in line for a slot, whenever it changes; ends once there is nothing to wait for but the answer."""
        last = 0
        while not await self._mail.wait(0 if last == 0 else _LOOK_S):
            assert self._future is not None
            place = self._loaded.engine.place_in_line(self._future)
            if place == 0:
                return
            if place != last:
                yield place
            last = place

    async def whole(self) -> list[Generation]:
        """All answers. Raises what the engine raises of the request."""
        async for _ in self.pieces():
            pass
        return self.results

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """What is new of the answers, as it comes; then `results` are there. Raises as `whole`."""
        ended = False
        try:
            while not ended:
                pieces: list[Piece] = []
                for item in await self._mail.take():
                    if item is None:
                        ended = True
                    else:
                        pieces += item
                if pieces:
                    yield pieces
                if not ended:
                    await asyncio.sleep(_PACE_S)
            self.results = self._settled()
        finally:
            self.give_up()

    def give_up(self) -> None:
        """End the request where it is; no effect on one that has ended."""
        self._given_up = True
        if self._future is not None:
            self._future.cancel()

    def _submit(self) -> None:
        question, engine = self._question, self._loaded.engine
        asked = {"deadline": self._deadline, **question.options}
        if self._streamed:
            asked["follower"] = self._mail.put
        ask = engine.follow if self._streamed else engine.submit
        self._future = ask(question.messages, question.images, **asked)
        mail = self._mail  # not self, which has the images: a future keeps what it has called
        self._future.add_done_callback(lambda _: mail.put(None))
        if self._given_up:  # while this thread was asking
            self._future.cancel()

    def _settled(self) -> list[Generation]:
        assert self._future is not None
        try:
            settled = self._future.result()
        except CancelledError:  # by the engine, which was closed: whoever gave it up does not ask
            raise draining() from None
        results: list[Generation] = settled if isinstance(settled, list) else [settled]
        return results * self._question.copies
