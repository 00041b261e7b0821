"""A question over HTTP, in whatever dialect: from the place in the queue to the last byte of the answer.

    place ─▶ body ─▶ request ─▶ model ─▶ question ─▶ engine ─▶ whole, or a stream
             └ 413   └───────── 400, 404 ─────────┘  └─ cancelled wherever it is, once the client leaves

A stream begins before its model is there, if that has to be loaded: what is wrong with the request is then told in it.

Enters: an ASGI request, and the dialect's own reading and writing. Leaves: the response.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pumice.generation.strategy import Piece
from pumice.result import Generation
from pumice.serve.admission import Place
from pumice.serve.answers import CHECKS, Answers
from pumice.serve.conversation import count_images
from pumice.serve.events import BEAT, MEDIA_TYPE, events
from pumice.serve.keeping import keep_of
from pumice.serve.lease import Lease
from pumice.serve.loaded import Loaded
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

    def queued(self, place: int) -> bytes:
        """What says which in line the request is, in a stream; may be nothing."""
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
class Early:
    """What of a `Form` a stream needs whose model is not there yet."""

    media_type: str
    beat: Callable[[], bytes]
    told: Callable[[RefusalError], bytes]


def early_events(_: str) -> Early:
    """Server-sent events."""
    return Early(media_type=MEDIA_TYPE, beat=lambda: BEAT, told=lambda refusal: events([refusal.body()]))


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

    `early` makes, of a model's name, what a stream is written by until there is a form: server-sent events.
    `question` makes what the engine is asked, where that is not a chat's.
    """

    server: Server
    read: Callable[[bytes], ChatRequest]
    form: FormMaker
    early: Callable[[str], Early] = early_events
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
            size = len(body)
            try:
                reading = self._request(body)
                del body
                await self._answer(await unless_gone(receive, reading), place, scope, receive, send)
            finally:
                server.ended(size)

    async def _answer(
        self, request: ChatRequest, place: Place, scope: Scope, receive: Receive, send: Send
    ) -> None:
        record = record_of(scope)
        with self.server.bundles.lease(request.model, keep_of(request)) as lease:
            record.model = lease.name
            if request.stream and not lease.held:
                await self._late(request, lease, record, place)(scope, receive, send)
                return
            asked = await unless_gone(receive, self._asked(request, lease, record, place))
            del request  # its images are decoded
            try:
                response: Any = self._streamed(asked) if asked.stream else await self._whole(asked, receive)
                await response(scope, receive, send)
            finally:
                asked.answers.give_up()

    async def _request(self, body: bytes) -> ChatRequest:
        return await asyncio.get_running_loop().run_in_executor(CHECKS, self.read, body)

    async def _asked(self, request: ChatRequest, lease: Lease, record: Record, place: Place) -> _Asked:
        """Wait for the model, check the request, and ask the engine."""
        loop, settings = asyncio.get_running_loop(), self.server.settings
        began = loop.time()
        loaded = await lease.loaded(settings.deadline)
        count_images(request.messages, settings.max_images)
        fetched = await self.server.fetching.fetched(request.messages, request.place, place.take)
        left = max(0.001, settings.deadline - (loop.time() - began))
        make = self.question or question_of
        question = await loop.run_in_executor(CHECKS, make, request, loaded, settings.max_images, fetched)
        record.images = len(question.images)
        stream = bool(request.stream)
        answers = answers_to(loaded, question, left, streamed=stream)
        form = self.form(request, loaded, question)  # before: some measure how long all of it takes
        await answers.begin()
        return _Asked(
            stream=stream,
            count=(1 + len(question.beside))
            * max(question.copies, question.options.get("num_return_sequences", 1)),
            question=question,
            answers=answers,
            form=form,
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

    def _late(self, request: ChatRequest, lease: Lease, record: Record, place: Place) -> Streamed:
        """A stream that begins while its model is being loaded."""
        early = self.early(lease.name)
        told = early.told

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal told
            asked = await self._asked(request, lease, record, place)
            told = asked.form.told
            try:
                async with aclosing(self._chunks(asked)) as rest:
                    async for chunk in rest:
                        yield chunk
            finally:
                asked.answers.give_up()

        return Streamed(
            chunks=chunks(),
            media_type=early.media_type,
            beat=early.beat,
            every=self.server.settings.keep_alive,
            told=lambda refusal: told(refusal),
        )

    async def _chunks(self, asked: _Asked) -> AsyncGenerator[bytes, None]:
        form, answers, copies = asked.form, asked.answers, asked.question.copies
        yield form.first(asked.count)
        async with aclosing(answers.places()) as places:
            async for place in places:
                if data := form.queued(place):
                    yield data
        async for pieces in answers.pieces():
            if data := form.pieces([copy for piece in pieces for copy in _copied(piece, copies)]):
                yield data
        self.server.served(asked.record, answers.results)
        yield form.last(answers.results)


def _copied(piece: Piece, copies: int) -> list[Piece]:
    """The piece once for each of several equal answers."""
    first = piece.index * copies
    return [piece] if copies == 1 else [replace(piece, index=first + i) for i in range(copies)]
