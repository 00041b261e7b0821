"""`POST /v1/responses`: OpenAI's newer dialect, as far as it goes without keeping anything.

Enters: a request. Leaves: a response, or its events as server-sent events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pumice.generation.strategy import Piece
from pumice.result import Generation
from pumice.serve.asking import Asking
from pumice.serve.events import EventStream
from pumice.serve.loaded import Loaded
from pumice.serve.questions import Question
from pumice.serve.refusals import RefusalError
from pumice.serve.responses_form import Event, ResponsesForm
from pumice.serve.responses_request import ResponsesRequest, read_responses
from pumice.serve.server import Server
from pumice.serve.terms import InTerms, Terms

_TERMS = Terms(
    names={
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "response_format.json_schema": "text.format",
        "response_format": "text.format",
    }
)


def responses(server: Server) -> InTerms:
    """The route."""
    return InTerms(
        app=Asking(server=server, read=read_responses, form=_form, early=_TERMS.early), terms=_TERMS
    )


def _form(request: ResponsesRequest, loaded: Loaded, question: Question) -> _Events:
    ends = question.options.get("eos_token_id", loaded.model.manifest.tokens.eos_ids)
    return _Events(form=ResponsesForm(request, loaded, question, ends))


@dataclass(frozen=True, kw_only=True)
class _Events(EventStream):
    """See `asking.Form`."""

    form: ResponsesForm

    def first(self, count: int) -> bytes:  # noqa: ARG002  there is one
        return _written(self.form.first())

    def pieces(self, pieces: Sequence[Piece]) -> bytes:
        return _written(self.form.pieces(pieces))

    def last(self, results: Sequence[Generation]) -> bytes:
        return _written(self.form.last(results))

    def told(self, refusal: RefusalError) -> bytes:
        return _written([self.form.failed(_TERMS.of(refusal))])

    def whole(self, results: Sequence[Generation]) -> dict[str, Any]:
        return self.form.response(results)


def _written(events: Sequence[Event]) -> bytes:
    """Each by its name, too."""
    return b"".join(
        b"event: " + event["type"].encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"
        for event in events
    )
