"""A question over HTTP, in whatever dialect: from the place in the queue to the last byte of the answer.

    place ─▶ body ─▶ request ─▶ question ─▶ engine ─▶ whole, or a stream
             └ 413   └───── 400, 404 ─────┘  └─ cancelled wherever it is, once the client leaves

Enters: an ASGI request, and the dialect's own reading and writing. Leaves: the response.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pumice.generation.strategy import Piece
from pumice.result import Generation
from pumice.serve.admission import Place
from pumice.serve.answers import CHECKS, Answers
from pumice.serve.bundles import Loaded
from pumice.serve.conversation import count_images
from pumice.serve.questions import Question, question_of
from pumice.serve.receiving import declared_bytes, read_body, unless_gone
from pumice.serve.refusals import RefusalError
from pumice.serve.server import Record, Server, record_of
from pumice.serve.several import SeveralAnswers, answers_to
from pumice.serve.streamed import Streamed
from pumice.serve.wire import ChatRequest


class Form(Protocol):
    """How a dialect writes an answer."""

    @property
    def media_type(self) -> str:
        """Of a stream."""
        ...

    def first(self, count: int) -> bytes:
        """What a stream of so many answers begins with, before anything is known."""
        ...

    def beat(self) -> bytes:
        """What says that a silent stream lives."""
        ...

    def pieces(self, pieces: Sequence[Piece]) -> bytes:
        """What is new, in a stream; may be nothing."""
        ...

    def last(self, results: Sequence[Generation]) -> bytes:
        """A stream's end."""
        ...

    def told(self, refusal: RefusalError) -> bytes:
        """The end of a stream that failed."""
        ...

    def whole(self, results: Sequence[Generation]) -> dict[str, Any]:
        """An answer that is not streamed."""
        ...


FormMaker = Callable[[Any, Loaded, Question], Form]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A question under way."""

    stream: bool
    count: int
    question: Question
    answers: Answers | SeveralAnswers
    form: Form
    record: Record


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A route, an ASGI app: `read` reads a body, `form` makes what its answer is written by.

    `question` makes what the engine is asked, where that is not a chat's.
    """

    server: Server
    read: Callable[[bytes], ChatRequest]
    form: FormMaker
    question: Callable[..., Question] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            RefusalError, PumiceError: before anything was sent.
            ClientGoneError: the client has left.
        """
        server, most = self.server, self.server.settings.max_body
        server.check_open()
        with server.admission.place(declared_bytes(scope, most)) as place:
            body = await read_body(receive, most)
            asked = await unless_gone(receive, self._asked(body, record_of(scope), place))
            del body  # its images are decoded
            try:
                response: Any = self._streamed(asked) if asked.stream else await self._whole(asked, receive)
                await response(scope, receive, send)
            finally:
                asked.answers.give_up()

    async def _asked(self, body: bytes, record: Record, place: Place) -> _Asked:
        """Check the request, and ask the engine."""
        loop, settings = asyncio.get_running_loop(), self.server.settings
        request = await loop.run_in_executor(CHECKS, self.read, body)
        loaded = self.server.bundles.find(request.model)
        record.model = loaded.name
        count_images(request.messages, settings.max_images)
        fetched = await self.server.fetching.fetched(request.messages, request.place, place.take)
        make = self.question or question_of
        question = await loop.run_in_executor(CHECKS, make, request, loaded, settings.max_images, fetched)
        record.images = len(question.images)
        stream = bool(request.stream)
        answers = answers_to(loaded, question, settings.deadline, streamed=stream)
        await answers.begin()
        return _Asked(
            stream=stream,
            count=(1 + len(question.beside))
            * max(question.copies, question.options.get("num_return_sequences", 1)),
            question=question,
            answers=answers,
            form=self.form(request, loaded, question),
            record=record,
        )

    async def _whole(self, asked: _Asked, receive: Receive) -> Response:
        results = await unless_gone(receive, asked.answers.whole())
        self.server.served(asked.record, results)
        return Response(msgspec.json.encode(asked.form.whole(results)), media_type="application/json")

    def _streamed(self, asked: _Asked) -> Streamed:
        return Streamed(
            chunks=self._chunks(asked),
            media_type=asked.form.media_type,
            beat=asked.form.beat,
            every=self.server.settings.keep_alive,
            told=asked.form.told,
        )

    async def _chunks(self, asked: _Asked) -> AsyncIterator[bytes]:
        form, answers, copies = asked.form, asked.answers, asked.question.copies
        yield form.first(asked.count)
        async for pieces in answers.pieces():
            if data := form.pieces([copy for piece in pieces for copy in _copied(piece, copies)]):
                yield data
        self.server.served(asked.record, answers.results)
        yield form.last(answers.results)


def _copied(piece: Piece, copies: int) -> list[Piece]:
    """The piece once for each of several equal answers."""
    first = piece.index * copies
    return [piece] if copies == 1 else [replace(piece, index=first + i) for i in range(copies)]
