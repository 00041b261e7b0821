"""Answers in the form of OpenAI's Responses: a response, or its events.

Enters: a generation, or pieces of it. Leaves: dicts that are sent as JSON; events are numbered from 0.

    created, in_progress ─▶ output_item.added, content_part.added ─▶ output_text.delta …
                         ─▶ output_text.done, content_part.done, output_item.done ─▶ completed, or incomplete
    a call:                 output_item.added ─▶ function_call_arguments.delta … ─▶ …done ─▶ output_item.done
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from pumice.generation.strategy import Piece
from pumice.result import Generation, TokenLogprobs
from pumice.serve.openai_form import logprobs_of, timings, usage
from pumice.serve.questions import Question
from pumice.serve.refusals import RefusalError
from pumice.serve.responses_request import ResponsesRequest

if TYPE_CHECKING:
    from pumice.serve.loaded import Loaded

Event = dict[str, Any]

_CODES = {
    "invalid_image_format": "invalid_image_format",
    "invalid_base64": "invalid_base64_image",
    "invalid_image_url": "invalid_image_url",
    "image_too_large": "image_too_large",
    "queue_full": "rate_limit_exceeded",
}
"""OpenAI's codes of a response that failed, by ours."""


_NAMES = ("user", "safety_identifier", "prompt_cache_key")
"""Fields that are repeated where they were sent."""


class ResponsesForm:
    """The form of one response, for one stream or one whole; `ends` are tokens that are no part of its text."""

    def __init__(
        self, request: ResponsesRequest, loaded: Loaded, question: Question, ends: Collection[int]
    ) -> None:
        self._request, self._loaded, self._question, self._ends = request, loaded, question, ends
        self._functions = question.constraint.functions
        self._key = secrets.token_hex(24)
        self._created = int(time.time())
        self._sent = 0
        self._begun = False

    def response(self, results: Sequence[Generation]) -> dict[str, Any]:
        """The whole, not streamed."""
        (result,) = results
        ended = result.finish_reason == "stop"
        return self._response("completed" if ended else "incomplete", [self._item(result)], result)

    def first(self) -> list[Event]:
        """What a stream begins with."""
        begun = self._response("in_progress", [])
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
        ]

    def pieces(self, pieces: Sequence[Piece]) -> list[Event]:
        """What is new; nothing where it shows in the end only which function is called."""
        events: list[Event] = []
        for piece in pieces if len(self._functions) < 2 else ():
            logprobs = self._logprobs(piece.logprobs)
            if piece.text or (logprobs and not self._functions):
                name = self._functions[0].name if self._functions else ""
                events += [*self._opened(name), self._delta(piece.text, logprobs)]
        return events

    def last(self, results: Sequence[Generation]) -> list[Event]:
        """What a stream ends with."""
        whole = self.response(results)
        (item,) = whole["output"]
        held = len(self._functions) > 1
        events = self._opened(item.get("name", ""))
        if held:
            events.append(self._delta(item["arguments"], []))
        events += self._closed(item)
        return [*events, self._event(f"response.{whole['status']}", response=whole)]

    def failed(self, refusal: RefusalError) -> Event:
        """The end of a stream that failed."""
        other = "server_error" if refusal.status >= 500 or refusal.status == 408 else "invalid_prompt"
        code = _CODES.get(refusal.code or "", other)
        error = {"code": code, "message": str(refusal), "param": refusal.param, "type": refusal.type}
        return self._event("response.failed", response=self._response("failed", []) | {"error": error})

    def _opened(self, name: str) -> list[Event]:
        """The events with which the only item begins, once."""
        if self._begun:
            return []
        self._begun = True
        item = self._call(name, "", "in_progress") if self._functions else self._message([], "in_progress")
        added = self._event("response.output_item.added", output_index=0, item=item)
        if self._functions:
            return [added]
        part = _part("", [])
        return [added, self._event("response.content_part.added", **self._at_part(), part=part)]

    def _delta(self, text: str, logprobs: list[dict[str, Any]]) -> Event:
        if self._functions:
            return self._event("response.function_call_arguments.delta", **self._at_call(), delta=text)
        return self._event("response.output_text.delta", **self._at_part(), delta=text, logprobs=logprobs)

    def _closed(self, item: dict[str, Any]) -> list[Event]:
        done = {"output_index": 0, "item": item}
        if self._functions:
            told = {"name": item["name"], "arguments": item["arguments"]}
            return [
                self._event("response.function_call_arguments.done", **self._at_call(), **told),
                self._event("response.output_item.done", **done),
            ]
        (part,) = item["content"]
        said = {"text": part["text"], "logprobs": part["logprobs"]}
        return [
            self._event("response.output_text.done", **self._at_part(), **said),
            self._event("response.content_part.done", **self._at_part(), part=part),
            self._event("response.output_item.done", **done),
        ]

    def _event(self, kind: str, **fields: Any) -> Event:
        number, self._sent = self._sent, self._sent + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _at_part(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self._key}", "output_index": 0, "content_index": 0}

    def _at_call(self) -> dict[str, Any]:
        return {"item_id": f"fc_{self._key}", "output_index": 0}

    def _item(self, result: Generation) -> dict[str, Any]:
        status = "completed" if result.finish_reason == "stop" else "incomplete"
        if self._functions:
            return self._call(*self._question.constraint.call(result.text), status)
        return self._message([_part(result.text, self._logprobs(result.logprobs))], status)

    def _message(self, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
        return {
            "id": f"msg_{self._key}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _call(self, name: str, arguments: str, status: str) -> dict[str, Any]:
        return {
            "id": f"fc_{self._key}",
            "type": "function_call",
            "call_id": f"call_{self._key}",
            "name": name,
            "arguments": arguments,
            "status": status,
        }

    def _logprobs(self, tokens: Sequence[TokenLogprobs] | None) -> list[dict[str, Any]]:
        return [] if tokens is None else logprobs_of(tokens, self._loaded, self._ends)

    def _response(
        self, status: str, output: list[dict[str, Any]], result: Generation | None = None
    ) -> dict[str, Any]:
        response: dict[str, Any] = {
            "id": f"resp_{self._key}",
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self._loaded.name,
            "output": output,
            **self._asked(),
        }
        return (
            response if result is None else response | {"usage": _usage(result), "timings": timings(result)}
        )

    def _asked(self) -> dict[str, Any]:
        """What was asked for, as answers repeat it."""
        asked, options = self._request.asked, self._loaded.model.options()
        sampled = self._question.options.get("do_sample", self._loaded.samples)
        temperature, top_p = self._request.temperature, self._request.top_p
        text = asked.text
        return {
            "background": False,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata or {},
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None, **(asked.reasoning or {})},
            "store": False,
            "temperature": (options.temperature if temperature is None else temperature) if sampled else 0.0,
            "text": {
                "format": (text and text.format) or {"type": "text"},
                "verbosity": (text and text.verbosity) or "medium",
            },
            "tool_choice": "auto" if asked.tool_choice is None else asked.tool_choice,
            "tools": [{"parameters": None, "strict": None, **tool} for tool in asked.tools or ()],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": options.top_p if top_p is None else top_p,
            "truncation": "disabled",
            **{name: value for name in _NAMES if (value := getattr(asked, name)) is not None},
        }


def _part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _usage(result: Generation) -> dict[str, Any]:
    counts = usage([result])
    prompt = counts["prompt_tokens_details"]
    return {
        "input_tokens": counts["prompt_tokens"],
        "input_tokens_details": {**prompt, "cache_write_tokens": 0},
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts["total_tokens"],
    }
