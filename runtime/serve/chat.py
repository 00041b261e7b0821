"""`POST /v1/chat/completions`: OpenAI's dialect.

Enters: a request. Leaves: a completion, or its chunks as server-sent events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pumice.generation.strategy import Piece
from pumice.result import Generation
from pumice.serve.asking import Asking
from pumice.serve.events import DONE, EventStream, events
from pumice.serve.loaded import Loaded
from pumice.serve.openai_form import ChatForm
from pumice.serve.questions import Question
from pumice.serve.refusals import RefusalError
from pumice.serve.server import Server
from pumice.serve.wire import ChatRequest, read_chat


def chat_completions(server: Server) -> Asking:
    """The route."""
    return Asking(server=server, read=read_chat, form=_form)


def _form(request: ChatRequest, loaded: Loaded, question: Question) -> _Events:
    ends = question.options.get("eos_token_id", loaded.model.manifest.tokens.eos_ids)
    form = ChatForm(loaded, question.constraint, ends, ids=bool(request.return_token_ids))
    options = request.stream_options
    return _Events(form=form, counts=options is not None and bool(options.include_usage))


@dataclass(frozen=True, kw_only=True)
class _Events(EventStream):
    """See `asking.Form`; `counts`: a stream ends with its usage."""

    form: ChatForm
    counts: bool

    def first(self, count: int) -> bytes:
        return events([self.form.first(index) for index in range(count)], counts=self.counts)

    def pieces(self, pieces: Sequence[Piece]) -> bytes:
        chunks = [chunk for piece in pieces if (chunk := self.form.chunk(piece)) is not None]
        return events(chunks, counts=self.counts)

    def last(self, results: Sequence[Generation]) -> bytes:
        chunks = [
            chunk
            for index, result in enumerate(results)
            for chunk in self.form.last(index, result, timed=not self.counts)
        ]
        if self.counts:
            chunks.append(self.form.usage(results))
        return events(chunks, counts=self.counts) + DONE

    def told(self, refusal: RefusalError) -> bytes:
        return events([refusal.body()])

    def whole(self, results: Sequence[Generation]) -> dict[str, Any]:
        return self.form.completion(results)
