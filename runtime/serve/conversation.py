"""OpenAI's messages become pumice's, and their images.

Enters: checked messages. Leaves: messages with a bare place for each image, in the order of their parts; the images.

Roles that chat templates do not know are told in those that they do: `developer` is `system`, a tool's result is what
the user says next, and the calls of an earlier answer are its text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pumice.serve.refusals import RefusalError
from pumice.serve.sent_images import SentImage, read_image
from pumice.serve.wire import Message, in_messages

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}
_PARTS = "expected text, image_url, input_text or input_image"


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages as `Engine` takes them, and the images of their places."""

    messages: list[dict[str, Any]]
    images: list[SentImage]

    @property
    def text_bytes(self) -> int:
        """Bytes of all texts."""
        texts: list[str] = []
        for message in self.messages:
            content = message["content"]
            texts += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        return sum(len(text.encode(errors="replace")) for text in texts)


def read_messages(
    messages: Sequence[Message],
    most_images: int,
    *,
    place: Callable[[int], str] = in_messages,
    fetched: Mapping[str, bytes] | None = None,
) -> Conversation:
    """The conversation; `place` says of a message where the client has it, `fetched` are images by their addresses.

    Raises:
        RefusalError: an unknown role or part, too many images, or one that is not accepted; names the place.
    """
    count_images(messages, most_images)
    images = _Images(fetched or {})
    read: list[dict[str, Any]] = []
    results = False  # whether the last one was a tool's result
    for i, message in enumerate(messages):
        role = _ROLES.get(message.role)
        if role is None:
            expected = ", ".join(_ROLES)
            raise RefusalError(
                f"{place(i)}.role is {message.role[:40]!r}, expected one of {expected}",
                param=f"{place(i)}.role",
            )
        parts = _parts(message, place(i), images)
        is_result = message.role in ("tool", "function")
        if is_result and results:
            read[-1]["content"] += [{"type": "text", "text": "\n"}, *parts]
        else:
            read.append({"role": role, "content": parts})
        results = is_result
    return Conversation(messages=[_plain(message) for message in read], images=images.found)


class _Images:
    """The images of a conversation, as they are come upon."""

    def __init__(self, fetched: Mapping[str, bytes]) -> None:
        self._fetched = fetched
        self.found: list[SentImage] = []

    def read(self, text: str, param: str) -> None:
        """The next one."""
        self.found.append(read_image(text, param, self._fetched))


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """A text alone is a text, which all templates take."""
    parts = message["content"]
    alone = len(parts) == 1 and parts[0]["type"] == "text"
    return {"role": message["role"], "content": parts[0]["text"] if alone else parts}


def count_images(messages: Sequence[Message], most: int) -> None:
    """Before one of them is looked at.

    Raises:
        RefusalError: they are too many.
    """
    count = sum(
        isinstance(part, dict) and part.get("type") in ("image_url", "input_image")
        for message in messages
        if isinstance(message.content, list)
        for part in message.content
    )
    if count > most:
        raise RefusalError(
            f"the request has {count} images, at most {most} are accepted",
            param="messages",
            code="too_many_images",
        )


def _parts(message: Message, place: str, images: _Images) -> list[dict[str, Any]]:
    content = message.content
    parts: list[dict[str, Any]] = []
    if isinstance(content, str):
        parts.append({"type": "text", "text": content})
    else:
        for j, part in enumerate(content or ()):
            parts.append(_part(part, f"{place}.content[{j}]", images))
    calls = [_call(call) for call in message.tool_calls or ()]
    if calls:
        parts.append({"type": "text", "text": "\n".join(calls)})
    if not parts:
        if message.role != "assistant":
            raise RefusalError(f"{place} has no content", param=f"{place}.content")
        parts.append({"type": "text", "text": ""})
    return parts


def _part(part: Any, place: str, images: _Images) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text", "output_text", "refusal"):
        text = part.get("refusal" if kind == "refusal" else "text")
        if isinstance(text, str):
            return {"type": "text", "text": text}
        raise RefusalError(f"{place} has no text", param=f"{place}.text")
    if kind == "image_url":
        images.read(_url(part.get("image_url"), place), f"{place}.image_url")
        return {"type": "image"}
    if kind == "input_image":
        url = part.get("image_url")
        if not isinstance(url, str):
            raise RefusalError(
                f"{place} has no image: expected image_url with data:image/jpeg;base64,…",
                param=f"{place}.image_url",
            )
        images.read(url, f"{place}.image_url")
        return {"type": "image"}
    told = f"of type {kind[:40]!r}" if isinstance(kind, str) else "without a type"
    raise RefusalError(f"{place} is a part {told}: {_PARTS}", param=place, code="unsupported_value")


def _url(value: Any, place: str) -> str:
    url = value.get("url") if isinstance(value, dict) else None
    if not isinstance(url, str):
        raise RefusalError(
            f"{place}.image_url is no object with a url, expected {{'url': 'data:image/jpeg;base64,…'}}",
            param=f"{place}.image_url",
        )
    detail = value.get("detail")
    if detail not in (None, "auto", "low", "high", "original"):
        raise RefusalError(
            f"{place}.image_url.detail is {str(detail)[:40]!r}, expected auto, low or high",
            param=f"{place}.image_url.detail",
        )
    return url


def _call(call: Any) -> str:
    """A call of an earlier answer, as that answer wrote it."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return ""
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return f"{function.get('name', '')}({text})"
