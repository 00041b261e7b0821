"""What a client of OpenAI's Responses sends, as what a client of its chat would have sent.

Enters: a body. Leaves: a `ResponsesRequest`: items have become messages, in their order. Nothing is kept between
requests, so that whatever refers to an earlier one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pumice.serve.refusals import RefusalError, unsupported
from pumice.serve.response_items import messages_of
from pumice.serve.wire import CHANGING, ChatRequest, checked, read_json, refuse_changing

LOGPROBS = "message.output_text.logprobs"


class Text(msgspec.Struct):
    """`text`."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class Asked(msgspec.Struct):
    """Fields that a chat has under other names or in other forms, and those that answers repeat."""

    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    text: Text | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    truncation: str | None = None
    reasoning: dict[str, Any] | None = None
    max_tool_calls: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class ResponsesRequest(ChatRequest, kw_only=True):
    """`POST /v1/responses`: the chat that is asked; `places` are where its messages stand."""

    asked: Asked
    places: list[str]

    def place(self, message: int) -> str:
        """Where a message stands in what the client sent."""
        return self.places[message]


_KEPT: Mapping[str, str] = {
    "previous_response_id": "nothing is kept between requests: send the whole conversation as input",
    "conversation": "nothing is kept between requests: send the whole conversation as input",
    "background": "an answer is given to the request itself: leave background out",
}
_OF_A_CHAT: Mapping[str, str] = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
}
_CHANGING: Mapping[str, tuple[Any, ...]] = {
    **CHANGING,
    "context_management": ([],),
    "n": (1,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
}
_SHARED = frozenset(ChatRequest.__struct_fields__) - {"messages", "tools", "tool_choice", "top_logprobs"}


def read_responses(body: bytes) -> ResponsesRequest:
    """A request.

    Raises:
        RefusalError: malformed, a value of another type or outside its interval, or a field that is not supported.
    """
    given = read_json(body)
    for name, message in _KEPT.items():
        if given.get(name) not in (None, False):
            raise unsupported(name, f"{name} is not supported: {message}")
    for name, own in _OF_A_CHAT.items():
        if given.get(name) is not None:
            raise unsupported(own, f"{name} is a chat's field, expected {own}")
    refuse_changing(given, _CHANGING)
    asked = checked(given, Asked)
    if asked.truncation not in (None, "auto", "disabled"):
        raise unsupported("truncation", "truncation is neither auto nor disabled")
    messages, places = messages_of(asked.input, asked.instructions)
    wants_logprobs = LOGPROBS in (asked.include or ())
    chat = checked(
        {
            **{name: value for name, value in given.items() if name in _SHARED and name != "stream_options"},
            "messages": messages,
            "max_tokens": asked.max_output_tokens,
            "response_format": _format(asked.text),
            "tools": _tools(asked.tools),
            "tool_choice": _choice(asked.tool_choice),
            "logprobs": wants_logprobs,
            "top_logprobs": asked.top_logprobs if wants_logprobs else None,
        },
        ChatRequest,
    )
    fields = {name: getattr(chat, name) for name in ChatRequest.__struct_fields__}
    return ResponsesRequest(**fields, asked=asked, places=places)


def _format(text: Text | None) -> dict[str, Any] | None:
    given = None if text is None else text.format
    if given is None or given.get("type") != "json_schema":
        return given
    if not isinstance(given.get("schema"), dict):
        raise RefusalError("text.format.schema is no JSON schema", param="text.format.schema")
    return {"type": "json_schema", "json_schema": given}


def _tools(tools: list[Any] | None) -> list[dict[str, Any]]:
    return [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools or ())]


def _tool(tool: Any, place: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise RefusalError(f"{place} is no object", param=place)
    if tool.get("type") != "function":
        raise unsupported(
            f"{place}.type", f"{place}.type is {str(tool.get('type'))[:40]!r}, expected function"
        )
    if not isinstance(tool.get("name"), str):
        raise RefusalError(f"{place} has no name", param=f"{place}.name")
    if not isinstance(tool.get("parameters"), dict | None):
        raise RefusalError(f"{place}.parameters is no JSON schema", param=f"{place}.parameters")
    return {"type": "function", "function": tool}


def _choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if not isinstance(choice, dict) or choice.get("type") == "function":
        return choice
    if choice.get("type") == "allowed_tools":
        return {"type": "allowed_tools", "allowed_tools": choice}
    raise unsupported(
        "tool_choice", f"tool_choice is of type {str(choice.get('type'))[:40]!r}, expected function"
    )
