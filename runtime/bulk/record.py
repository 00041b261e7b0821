"""What comes of one input: an answer, or why there is none. One line of a JSONL output.

Enters: generations and exceptions. Leaves: `Record` objects, and lines of UTF-8 JSON with a final newline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pumice.errors import PumiceError
from pumice.result import FinishReason, Generation, TokenLogprobs


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an input has no answer: the error's class, as in `pumice.errors`, and its message of one line."""

    type: str
    message: str

    @classmethod
    def of(cls, error: Exception, where: str | None = None) -> Failure:
        """An exception as it is told to people, with the place where its input stands."""
        message = str(error) if isinstance(error, PumiceError) else f"{type(error).__name__}: {error}"
        if where is not None and not message.startswith(where):
            message = f"{where}: {message}"
        return cls(type=type(error).__name__, message=str(PumiceError(message)))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One of several answers (`num_return_sequences`), fields as in `Record`."""

    text: str
    finish_reason: FinishReason
    completion_tokens: int
    logprobs: tuple[TokenLogprobs, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What came of input number `index` (from 0): either `error`, or `text` and what follows it.

    `image_tokens` are those of `prompt_tokens` that stand for images. `seconds` run from the submission to the end,
    waiting included. Of several answers the best is told here, and all of them in `answers`.
    """

    index: int
    id: str
    text: str | None = None
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    image_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None
    answers: tuple[Answer, ...] | None = None
    error: Failure | None = None


def answered(
    index: int, record_id: str, result: Generation | Sequence[Generation], *, seconds: float
) -> Record:
    """The record of an answer, or of several."""
    results = [result] if isinstance(result, Generation) else list(result)
    best = results[0]
    return Record(
        index=index,
        id=record_id,
        text=best.text,
        finish_reason=best.finish_reason,
        prompt_tokens=best.usage.prompt_tokens,
        image_tokens=best.usage.image_tokens,
        completion_tokens=sum(len(one.token_ids) for one in results),
        seconds=round(seconds, 4),
        logprobs=best.logprobs,
        answers=None if len(results) == 1 else tuple(_answer(one) for one in results),
    )


def failed(index: int, record_id: str, error: Exception, where: str | None = None) -> Record:
    """The record of an input without an answer."""
    return Record(index=index, id=record_id, error=Failure.of(error, where))


def encode_record(record: Record) -> bytes:
    """A line of JSON; what is None is left out."""
    return msgspec.json.encode(_without_none(msgspec.to_builtins(record))) + b"\n"


def decode_record(line: bytes) -> Record:
    """The record of a line.

    Raises:
        ValueError: it is none.
    """
    try:
        return msgspec.json.decode(line, type=Record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def to_row(record: Record) -> dict[str, Any]:
    """A record as columns of tables have it: an error's are two."""
    row: dict[str, Any] = msgspec.to_builtins(record)
    error = row.pop("error", None) or {}
    return {**row, "error_type": error.get("type"), "error_message": error.get("message")}


def from_row(row: dict[str, Any]) -> Record:
    """The record of a row. Raises `msgspec.MsgspecError` or `KeyError` if it is none."""
    kind, message = row.pop("error_type"), row.pop("error_message")
    error = None if kind is None else {"type": kind, "message": message}
    return msgspec.convert({**row, "error": error}, Record)


def _answer(result: Generation) -> Answer:
    return Answer(
        text=result.text,
        finish_reason=result.finish_reason,
        completion_tokens=len(result.token_ids),
        logprobs=result.logprobs,
    )


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value
