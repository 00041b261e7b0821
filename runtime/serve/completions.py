"""`POST /v1/completions`: OpenAI's legacy dialect, a prompt as it stands and what comes behind it.

Enters: a request. Leaves: a text completion, or its chunks as server-sent events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pumice.errors import PumiceError
from pumice.generation.strategy import Piece
from pumice.prompt.sealed import Span
from pumice.result import Generation
from pumice.serve.asking import Asking
from pumice.serve.completion_request import CompletionRequest, RawPrompt, read_completion
from pumice.serve.constraints import constraint_of
from pumice.serve.events import DONE, EventStream, events
from pumice.serve.legacy_form import LegacyForm
from pumice.serve.loaded import Loaded
from pumice.serve.questions import Question, options_of, several
from pumice.serve.refusals import RefusalError, refusal_of
from pumice.serve.server import Server
from pumice.serve.terms import InTerms, Terms

_TERMS = Terms(names={"top_logprobs": "logprobs"})


def completions(server: Server) -> InTerms:
    """The route."""
    asking = Asking(server=server, read=read_completion, form=_form, question=_question, early=_TERMS.early)
    return InTerms(app=asking, terms=_TERMS)


def _question(request: CompletionRequest, loaded: Loaded, *_: Any) -> Question:
    """The first prompt, the others beside it; all of them fit into the context.

    Raises:
        RefusalError, PumiceError: as `question_of`.
    """
    constraint = constraint_of(request)
    options = options_of(request, loaded) | constraint.options | {"raw": True}
    copies = several(request, options, loaded)
    questions = [
        Question(
            messages=_checked(prompt, i, request, loaded),
            images=[],
            options=options,
            constraint=constraint,
            copies=copies,
        )
        for i, prompt in enumerate(request.prompts)
    ]
    return replace(questions[0], beside=tuple(questions[1:]))


def _checked(prompt: Any, number: int, request: CompletionRequest, loaded: Loaded) -> RawPrompt:
    """The prompt as the engine takes it, once it is known to leave room for an answer."""
    pipeline = loaded.model.pipeline
    try:
        tokens = pipeline.builder.count(prompt, (), raw=True)
        pipeline.room(tokens, 1, loaded.context)
    except PumiceError as error:
        refusal = refusal_of(error)
        refusal.param = "prompt" if len(request.prompts) == 1 else f"prompt[{number}]"
        raise refusal from None
    if isinstance(prompt, str) and request.add_special_tokens is False:
        span = Span(text=prompt, trusted=True)
        return pipeline.tokenizer.encode_spans([span], add_special_tokens=False)
    checked: RawPrompt = prompt
    return checked


def _form(request: CompletionRequest, loaded: Loaded, question: Question) -> _Events:
    ends = question.options.get("eos_token_id", loaded.model.manifest.tokens.eos_ids)
    each = max(question.copies, question.options.get("num_return_sequences", 1))
    echoes = [_text(prompt, loaded) if request.echo else "" for prompt in request.prompts]
    options = request.stream_options
    return _Events(
        form=LegacyForm(loaded, echoes, each, ends, ids=bool(request.return_token_ids)),
        counts=options is not None and bool(options.include_usage),
    )


def _text(prompt: RawPrompt, loaded: Loaded) -> str:
    return prompt if isinstance(prompt, str) else loaded.model.pipeline.tokenizer.decode(prompt)


@dataclass(frozen=True, kw_only=True)
class _Events(EventStream):
    """See `asking.Form`; `counts`: a stream ends with its usage."""

    form: LegacyForm
    counts: bool

    def first(self, count: int) -> bytes:
        chunks = [chunk for index in range(count) if (chunk := self.form.first(index)) is not None]
        return events(chunks, counts=self.counts)

    def pieces(self, pieces: Sequence[Piece]) -> bytes:
        chunks = [chunk for piece in pieces if (chunk := self.form.chunk(piece)) is not None]
        return events(chunks, counts=self.counts)

    def last(self, results: Sequence[Generation]) -> bytes:
        chunks = [self.form.last(i, result, timed=not self.counts) for i, result in enumerate(results)]
        if self.counts:
            chunks.append(self.form.usage(results))
        return events(chunks, counts=self.counts) + DONE

    def told(self, refusal: RefusalError) -> bytes:
        return events([_TERMS.of(refusal).body()])

    def whole(self, results: Sequence[Generation]) -> dict[str, Any]:
        return self.form.completion(results)
