"""Items of a Responses request become a chat's messages.

Enters: `input`, and `instructions`. Leaves: messages, and where each of them stands.

    instructions ─────────▶ system
    message ──────────────▶ its role; parts as they are
    function_call … ──────▶ assistant, with what it said before
    function_call_output ─▶ tool
    reasoning ────────────▶ nothing: what a model thought is no part of what was said
"""

from __future__ import annotations

from typing import Any

from pumice.serve.refusals import RefusalError, unsupported

Messages = tuple[list[dict[str, Any]], list[str]]


def messages_of(given: str | list[Any], instructions: str | None) -> Messages:
    """Messages, and their places.

    Raises:
        RefusalError: an item of another kind or form; names the place.
    """
    messages: list[dict[str, Any]] = []
    places: list[str] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
        places.append("instructions")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
        whole = True
    else:
        whole = False
    if not given:
        raise RefusalError("input is empty, expected a text or items", param="input")
    for i, item in enumerate(given):
        place = "input" if whole else f"input[{i}]"
        message = _message(item, place)
        if message is None:
            continue
        last = messages[-1] if messages else {}
        if message.get("tool_calls") and last.get("role") == "assistant":
            last.setdefault("tool_calls", []).extend(message["tool_calls"])
        else:
            messages.append(message)
            places.append(place)
    return messages, places


def _message(item: Any, place: str) -> dict[str, Any] | None:
    """The message of an item; None of one that says nothing."""
    if not isinstance(item, dict):
        raise RefusalError(f"{place} is no object", param=place)
    kind = item.get("type", "message")
    match kind:
        case "message":
            return _said(item, place)
        case "function_call":
            name = _text(item, "name", place)
            call = {"function": {"name": name, "arguments": _text(item, "arguments", place)}}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            output = item.get("output")
            if not isinstance(output, str | list):
                raise RefusalError(f"{place} has no output", param=f"{place}.output")
            return {"role": "tool", "content": output}
        case "reasoning":
            return None
        case "item_reference":
            raise unsupported(place, f"{place} refers to an item of another request: nothing is kept")
    raise unsupported(
        f"{place}.type",
        f"{place}.type is {str(kind)[:40]!r}, expected message, function_call or function_call_output",
    )


def _said(item: dict[str, Any], place: str) -> dict[str, Any]:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant", "system", "developer"):
        raise RefusalError(
            f"{place}.role is {str(role)[:40]!r}, expected user, assistant, system or developer",
            param=f"{place}.role",
        )
    if not isinstance(content, str | list):
        raise RefusalError(f"{place} has no content", param=f"{place}.content")
    return {"role": role, "content": content}


def _text(item: dict[str, Any], name: str, place: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise RefusalError(f"{place}.{name} is no text", param=f"{place}.{name}")
    return value
