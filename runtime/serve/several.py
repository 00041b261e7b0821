"""Answers to several questions of one request, as if they were the answers to one.

Enters: questions alike but for their prompts. Leaves: pieces of all answers, numbered through; then the whole, in
order. At most as many questions as there are slots are asked at a time: others want to be answered as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from pumice.generation.strategy import Piece
from pumice.result import Generation
from pumice.serve.answers import Answers

if TYPE_CHECKING:
    from pumice.serve.loaded import Loaded
    from pumice.serve.questions import Question


def answers_to(
    loaded: Loaded, question: Question, deadline: float, *, streamed: bool
) -> Answers | SeveralAnswers:
    """The answers to a question, and to those beside it."""
    each = [Answers(loaded, one, deadline, streamed=streamed) for one in (question, *question.beside)]
    if len(each) == 1:
        return each[0]
    return SeveralAnswers(each, question.options.get("num_return_sequences", 1), loaded.engine.slots)


class SeveralAnswers:
    """See `Answers`; each of `each` has `count` of them."""

    def __init__(self, each: Sequence[Answers], count: int, at_once: int) -> None:
        self._each, self._count = each, count
        self._places = asyncio.Semaphore(at_once)
        self._news: asyncio.Queue[list[Piece] | Exception | None] = asyncio.Queue()
        self.results: list[Generation] = []

    async def begin(self) -> None:
        """Ask the first; what is wrong with the options is wrong with it, too."""
        await self._each[0].begin()

    async def places(self) -> AsyncGenerator[int, None]:
        """The first one's place in line."""
        async with aclosing(self._each[0].places()) as places:
            async for place in places:
                yield place

    async def whole(self) -> list[Generation]:
        """All answers."""
        async for _ in self.pieces():
            pass
        return self.results

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """What is new, as it comes; raises what the first failure raises, and gives up the others."""
        tasks = [asyncio.ensure_future(self._follow(i)) for i in range(len(self._each))]
        under_way = len(tasks)
        try:
            while under_way:
                news = await self._news.get()
                if isinstance(news, Exception):
                    raise news
                if news is None:
                    under_way -= 1
                else:
                    yield news
            self.results = [result for answers in self._each for result in answers.results]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.give_up()

    def give_up(self) -> None:
        """End all of them where they are."""
        for answers in self._each:
            answers.give_up()

    async def _follow(self, number: int) -> None:
        """Tell of one question's answers, and how they ended."""
        answers, first = self._each[number], number * self._count
        ending: Exception | None = None
        try:
            async with self._places:
                if number:
                    await answers.begin()
                async with aclosing(answers.pieces()) as pieces:
                    async for news in pieces:
                        self._news.put_nowait([replace(piece, index=first + piece.index) for piece in news])
        except Exception as error:
            ending = error
        self._news.put_nowait(ending)
