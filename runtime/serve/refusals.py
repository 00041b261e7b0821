"""Errors as clients see them: a status, and OpenAI's four fields.

Enters: what was raised. Leaves: a `RefusalError`. Bad input is never 5xx, for clients try those again; what a failure
inside says of itself (addresses, paths, tracebacks) never leaves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pumice.errors import (
    BundleError,
    ContextLengthError,
    DeadlineError,
    EngineClosedError,
    ImageError,
    InsufficientMemoryError,
    PromptError,
    PumiceError,
    QueueFullError,
    SchemaVersionError,
    UsageError,
)

GONE = 499
"""nginx's status for a client that left: nobody reads it but the log."""

_NEVER_AGAIN = {"x-should-retry": "false"}
"""OpenAI's clients obey it where they would try again."""


class RefusalError(PumiceError):
    """A request that is not answered: `status`, and `type`, `param` and `code` as OpenAI has them."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.type, self.param, self.code = status, type, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's form."""
        return {
            "error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code},
        }


class ClientGoneError(Exception):
    """The client has left: there is nobody to answer."""


def unsupported(param: str, message: str) -> RefusalError:
    """A field that would change the answer, and cannot."""
    return RefusalError(message, param=param, code="unsupported_value")


def draining() -> RefusalError:
    """The server is about to end."""
    return RefusalError(
        "the server is shutting down: try again",
        status=503,
        type="server_error",
        code="draining",
        headers={"Retry-After": "5"},
    )


def loading() -> RefusalError:
    """The only model is not there yet."""
    return RefusalError(
        "Loading model",
        status=503,
        type="unavailable_error",
        code="loading",
        headers={"Retry-After": "2"},
    )


def model_not_found(name: str, names: Collection[str]) -> RefusalError:
    """Nobody has this name."""
    return RefusalError(
        f"there is no model {name[:200]!r}: {', '.join(map(repr, names))}",
        status=404,
        param="model",
        code="model_not_found",
    )


def model_failed(name: str, error: BaseException) -> RefusalError:
    """A bundle that cannot be opened, of which no more is said than that: what is wrong is in the log."""
    newer = ": it was written for a newer pumice" if isinstance(error, SchemaVersionError) else ""
    return RefusalError(
        f"the bundle of {name!r} cannot be opened{newer}",
        status=503,
        type="server_error",
        param="model",
        code="model_failed",
        headers=_NEVER_AGAIN,
    )


def no_memory(message: str) -> RefusalError:
    """What was asked for does not fit."""
    return RefusalError(message, status=503, type="server_error", code="no_memory", headers=_NEVER_AGAIN)


def untangle(error: BaseException) -> None:
    """Take the tracebacks off an error and off those behind it.

    They lead to frames, frames to a request's bytes, and often to the error again: such rings would keep tens of
    megabytes until the collector comes by, which counts objects and not their bytes.
    """
    behind: list[BaseException] = [error]
    seen: set[int] = set()
    while behind:
        each = behind.pop()
        if id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            behind += [other for other in (each.__cause__, each.__context__) if other is not None]


def refusal_of(error: BaseException) -> RefusalError:
    """Any failure, as the client is told."""
    match error:
        case RefusalError():
            return error
        case ImageError():
            code = "image_too_large" if " too la" in str(error) else "invalid_image_format"
            return RefusalError(str(error), code=code)
        case ContextLengthError():
            return RefusalError(str(error), param="messages", code="context_length_exceeded")
        case PromptError():
            return RefusalError(str(error), param="messages")
        case UsageError():
            return RefusalError(str(error), param=_param(str(error)), code="unsupported_value")
        case QueueFullError():
            return queue_full(1)
        case DeadlineError():
            return RefusalError(
                str(error), status=408, type="timeout_error", code="timeout", headers=_NEVER_AGAIN
            )
        case InsufficientMemoryError():
            return no_memory("there is not enough memory for this request")
        case EngineClosedError():
            return draining()
        case BundleError():
            return _server_error("the model cannot be used")
        case _:
            return _server_error("the request failed inside the server")


def queue_full(seconds: int) -> RefusalError:
    """Too many wait; in `seconds` there is room again, by what requests have taken."""
    return RefusalError(
        f"rate limit: the server has as many requests waiting as it may; try again in {seconds} s",
        status=429,
        type="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": str(seconds)},
    )


def _server_error(message: str) -> RefusalError:
    return RefusalError(message, status=500, type="server_error", code="internal_error", headers=_NEVER_AGAIN)


_PARAMS = {
    "max_new_tokens": "max_tokens",
    "num_return_sequences": "n",
    "stop_strings": "stop",
    "json_schema": "response_format",
    "bad_words_ids": "bad_words",
    "logprobs": "top_logprobs",
}
_OWN = {
    "temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "logit_bias", "frequency_penalty",
    "presence_penalty", "repetition_penalty", "regex",
}  # fmt: skip


def _param(message: str) -> str | None:
    """The field that a message about an option begins with, by OpenAI's name."""
    if message.startswith("the JSON schema"):
        return "response_format"
    word = message.partition(" ")[0]
    return _PARAMS.get(word) or (word if word in _OWN else None)
