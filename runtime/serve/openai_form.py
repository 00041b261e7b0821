"""Answers in OpenAI's form: a completion, or its chunks.

Enters: generations, or pieces of them. Leaves: dicts that are sent as JSON.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from pumice.generation.strategy import Piece
from pumice.result import Generation, TokenLogprob, TokenLogprobs

if TYPE_CHECKING:
    from pumice.serve.constraints import Constraint
    from pumice.serve.loaded import Loaded

LEAST_LOGPROB = -9999.0
"""OpenAI's for a token without any chance; JSON has no infinity."""


class ChatForm:
    """The form of one chat's answers; `ends` are tokens that end one, and are no part of its text."""

    def __init__(
        self, loaded: Loaded, constraint: Constraint, ends: Collection[int], *, ids: bool = False
    ) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self._loaded, self._constraint, self._ends, self._ids = loaded, constraint, ends, ids
        self._created = int(time.time())
        self._held = len(constraint.functions) > 1  # which of them is called shows in the end

    def completion(self, results: Sequence[Generation]) -> dict[str, Any]:
        """The whole, not streamed."""
        return {
            **self._head("chat.completion"),
            "choices": [self._choice(i, result) for i, result in enumerate(results)],
            "usage": usage(results),
            "timings": timings(results[0]),
        }

    def first(self, index: int) -> dict[str, Any]:
        """The chunk that says who speaks."""
        delta: dict[str, Any] = {"role": "assistant", "content": ""}
        if self._constraint.functions:
            delta["content"] = None
            if not self._held:
                delta["tool_calls"] = [self._call(index, self._constraint.functions[0].name, "")]
        return self._chunk(index, delta)

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        """A chunk of text and tokens; None where there is nothing to show yet."""
        logprobs = self._logprobs(piece.logprobs)
        shown = piece.text and not self._held
        if not shown and not (logprobs and logprobs["content"]) and not self._ids:
            return None
        delta: dict[str, Any] = {}
        if shown and self._constraint.functions:
            delta["tool_calls"] = [{"index": 0, "function": {"arguments": piece.text}}]
        elif not self._constraint.functions:
            delta["content"] = piece.text
        chunk = self._chunk(piece.index, delta, logprobs=logprobs)
        if self._ids:
            chunk["choices"][0]["token_ids"] = list(piece.token_ids)
        return chunk

    def last(self, index: int, result: Generation, *, timed: bool = True) -> list[dict[str, Any]]:
        """The chunks of an answer's end: what was held, and why it has ended; `timed` where no usage follows.

        Timings count tokens as usage does, and Open WebUI adds up all counts of a stream.
        """
        chunks = []
        if self._held:
            name, arguments = self._constraint.call(result.text)
            chunks.append(self._chunk(index, {"tool_calls": [self._call(index, name, arguments)]}))
        ending = self._chunk(index, {}, finish=self._finish(result))
        if timed:
            ending["timings"] = timings(result)
        return [*chunks, ending]

    def usage(self, results: Sequence[Generation]) -> dict[str, Any]:
        """The chunk of counts, behind all others."""
        return {
            **self._head("chat.completion.chunk"),
            "choices": [],
            "usage": usage(results),
            "timings": timings(results[0]),
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._loaded.name,
            "system_fingerprint": self._loaded.fingerprint,
        }

    def _chunk(
        self, index: int, delta: dict[str, Any], *, finish: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _choice(self, index: int, result: Generation) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
        if self._constraint.functions:
            call = self._call(index, *self._constraint.call(result.text))
            message |= {"content": None, "tool_calls": [{k: v for k, v in call.items() if k != "index"}]}
        choice = {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(result.logprobs),
            "finish_reason": self._finish(result),
        }
        return choice | ({"token_ids": result.token_ids} if self._ids else {})

    def _call(self, index: int, name: str, arguments: str) -> dict[str, Any]:
        return {
            "index": 0,
            "id": f"call_{self.id[-12:]}{index}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }

    def _finish(self, result: Generation) -> str:
        if result.finish_reason == "stop" and self._constraint.functions:
            return "tool_calls"
        return result.finish_reason

    def _logprobs(self, tokens: Sequence[TokenLogprobs] | None) -> dict[str, Any] | None:
        if tokens is None:
            return None
        return {"content": logprobs_of(tokens, self._loaded, self._ends), "refusal": None}


def logprobs_of(
    tokens: Sequence[TokenLogprobs], loaded: Loaded, ends: Collection[int]
) -> list[dict[str, Any]]:
    """Log-probabilities of an answer's tokens, but for those that end it."""

    def one(token: TokenLogprob) -> dict[str, Any]:
        data = loaded.model.pipeline.tokenizer.token_bytes(token.token_id)
        return {"token": token.token, "bytes": list(data), "logprob": max(token.logprob, LEAST_LOGPROB)}

    return [
        one(token) | {"top_logprobs": [one(other) for other in token.top]}
        for token in tokens
        if token.token_id not in ends
    ]


def usage(results: Sequence[Generation]) -> dict[str, Any]:
    """Counts of tokens; the prompt's are counted once, however many answers it has."""
    prompt = results[0].usage
    completion = sum(result.usage.completion_tokens for result in results)
    return {
        "prompt_tokens": prompt.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt.prompt_tokens + completion,
        "prompt_tokens_details": {
            "cached_tokens": prompt.cached_tokens,
            "image_tokens": prompt.image_tokens,
            "text_tokens": prompt.prompt_tokens - prompt.image_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def timings(result: Generation) -> dict[str, Any]:
    """llama.cpp's, in milliseconds, and ours: what the time until the first token went into."""
    counts, took = result.usage, result.timings
    evaluated = counts.prompt_tokens - counts.cached_tokens
    prompt_s = took.vision + took.prefill
    working = took.preprocess + prompt_s
    return {
        "cache_n": counts.cached_tokens,
        "prompt_n": evaluated,
        **_speeds("prompt", evaluated, prompt_s),
        "predicted_n": counts.completion_tokens,
        **_speeds("predicted", counts.completion_tokens, took.decode),
        "queue_ms": max(0.0, took.time_to_first_token - working) * 1000,
        "preprocess_ms": took.preprocess * 1000,
        "vision_ms": took.vision * 1000,
        "first_token_ms": took.time_to_first_token * 1000,
    }


def _speeds(what: str, tokens: int, seconds: float) -> dict[str, float]:
    return {
        f"{what}_ms": seconds * 1000,
        f"{what}_per_token_ms": seconds * 1000 / tokens if tokens else 0.0,
        f"{what}_per_second": tokens / seconds if seconds > 0 else 0.0,
    }
