"""What a client of Ollama sends, as what a client of OpenAI would have sent.

Enters: a body. Leaves: a `ChatRequest`: images come before their message's text, as Ollama puts them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pumice.serve.keeping import keep_seconds
from pumice.serve.refusals import unsupported
from pumice.serve.wire import ChatRequest, Message, checked, read_json, refuse_changing

_log = logging.getLogger("pumice.serve")


class _Options(msgspec.Struct):
    """`options`; those of memory and threads are the server's own business."""

    num_predict: int | None = None
    num_ctx: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[Any] | None = None


class _Common(msgspec.Struct):
    model: str
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: _Options | None = None
    keep_alive: Any = None
    think: bool | str | None = None
    logprobs: bool | None = None


class _Chat(_Common):
    messages: list[_Message] | None = None
    tools: list[Any] | None = None


class _Generate(_Common):
    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None


_CHANGING: Mapping[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "template": ("",),
    "raw": (False,),
    "context": ([],),
}
_CHANGING_OPTIONS: Mapping[str, tuple[Any, ...]] = {"mirostat": (0,)}


class Wish(msgspec.Struct, frozen=True):
    """A model that is only to be loaded, or unloaded where it is kept for 0 seconds."""

    model: str
    keep: float | None


def wish_of(body: bytes) -> Wish | None:
    """What is wanted where there is no question; None where there is one.

    Raises:
        RefusalError: `keep_alive` is no duration.
    """
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(given, dict) or given.get("messages") or given.get("prompt") or given.get("images"):
        return None
    name = given.get("model")
    return Wish(model=name, keep=keep_seconds(given.get("keep_alive"))) if isinstance(name, str) else None


def read_chat(body: bytes) -> ChatRequest:
    """`/api/chat`. Raises `RefusalError` as `wire.read_chat`."""
    given = _given(body)
    request = checked(given, _Chat)
    messages = [_message(message) for message in request.messages or ()]
    return _request(request, messages, tools=request.tools)


def read_generate(body: bytes) -> ChatRequest:
    """`/api/generate`. Raises `RefusalError` as `wire.read_chat`."""
    given = _given(body)
    refuse_changing(given, _CHANGING)
    request = checked(given, _Generate)
    messages = [Message(role="system", content=request.system)] if request.system else []
    asked = _Message(role="user", content=request.prompt or "", images=request.images)
    return _request(request, [*messages, _message(asked)])


def _given(body: bytes) -> dict[str, Any]:
    given = read_json(body)
    options = given.get("options")
    if isinstance(options, dict):
        refuse_changing(options, _CHANGING_OPTIONS)
    return given


def _message(message: _Message) -> Message:
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": image}} for image in message.images or ()]
    if not parts:
        return Message(role=message.role, content=message.content or "", tool_calls=message.tool_calls)
    parts.append({"type": "text", "text": message.content or ""})
    return Message(role=message.role, content=parts)


def _request(request: _Common, messages: Sequence[Message], *, tools: list[Any] | None = None) -> ChatRequest:
    options = request.options or _Options()
    if options.num_ctx is not None:
        _log.debug("num_ctx %d was asked for: the context is the server's", options.num_ctx)
    limit = options.num_predict
    return checked(
        {
            "model": request.model,
            "messages": msgspec.to_builtins(list(messages)),
            "stream": request.stream is not False,
            "max_tokens": -1 if limit is None or limit < 0 else limit,
            "temperature": options.temperature,
            "top_k": options.top_k,
            "top_p": options.top_p,
            "min_p": options.min_p,
            "typical_p": options.typical_p,
            "seed": options.seed,
            "stop": options.stop,
            "repeat_penalty": options.repeat_penalty,
            "presence_penalty": options.presence_penalty,
            "frequency_penalty": options.frequency_penalty,
            "response_format": _format(request.format),
            "tools": tools,
            "keep_alive": request.keep_alive,
        },
        ChatRequest,
    )


def _format(format: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if format is None or format == "":
        return None
    if format == "json":
        return {"type": "json_object"}
    if isinstance(format, dict):
        return {"type": "json_object", "schema": format}
    raise unsupported("format", f"format is {format[:40]!r}, expected json or a JSON schema")
