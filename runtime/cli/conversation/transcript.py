"""`/save` and `/load`: a conversation as a JSON file.

    {"format": "pumice chat", "version": 1,
     "messages": [{"role": "user", "content": [{"type": "image", "url": "data:image/png;base64,…", "name": "a.png"},
                                               {"type": "text", "text": "…"}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "…"}]}],
     "options": {"temperature": 0.7}}

Enters: a `Conversation` and a path. Leaves: a file, or the conversation that a file has. Messages are in transformers'
form, and images lie within the file: what happens to theirs afterwards changes nothing. A list of messages alone can
be loaded, too, and images by `path`.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pumice.cli.conversation.attached import AttachedImage, attached, embedded
from pumice.cli.conversation.settings import asked_for
from pumice.cli.conversation.state import Conversation
from pumice.errors import PromptError, UsageError

FORMAT, VERSION = "pumice chat", 1
MOST_BYTES = 2**29
MOST_MESSAGES = 10_000


def save(conversation: Conversation, path: str, *, overwrite: bool) -> None:
    """Write the conversation to a file, whole or not at all.

    Raises:
        UsageError: it exists and may not be overwritten, or cannot be written.
    """
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path!r} exists: /save! overwrites it, or give another name")
    document = {
        "format": FORMAT,
        "version": VERSION,
        "messages": _messages(conversation),
        "options": conversation.given,
    }
    text = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
    try:
        _write(Path(path), text.encode("utf-8", "surrogatepass"), overwrite=overwrite)
    except FileExistsError:
        raise UsageError(f"{path!r} exists: /save! overwrites it, or give another name") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"the conversation cannot be saved to {path!r}: {_reason(error)}") from None


def load(conversation: Conversation, path: str) -> None:
    """Take a file's conversation, and its settings if it has any, in place of this one.

    Raises:
        UsageError: it cannot be read, is no conversation, or its settings do not hold.
        PromptError, ImageError: messages or images that this bundle cannot have. In all cases nothing is changed.
    """
    document = _read(path)
    if isinstance(document, list):
        document = {"messages": document}
    if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
        raise UsageError(f"{path!r} is no saved conversation: expected an object with a list of messages")
    if document.get("format", FORMAT) != FORMAT or document.get("version", VERSION) != VERSION:
        raise UsageError(
            f"{path!r} is not of the format {FORMAT!r}, version {VERSION}: a newer pumice may read it"
        )
    options = document.get("options", {})
    if not isinstance(options, dict):
        raise UsageError(f"{path!r} has options that are no object")
    if len(document["messages"]) > MOST_MESSAGES:
        raise UsageError(
            f"{path!r} has {len(document['messages']):,} messages, expected {MOST_MESSAGES:,} at most"
        )
    images: list[AttachedImage] = []
    messages = [_taken(message, images, conversation) for message in document["messages"]]
    chat, before = conversation.chat, conversation.chat.options
    if "options" in document:
        chat.options = asked_for(options)
    try:
        chat.restore(messages, [image.prepared for image in images])
    except BaseException:
        chat.options = before
        raise
    conversation.remember(images)


def _messages(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages, each image in its place."""
    images = conversation.of_turns()

    def part(one: Mapping[str, Any]) -> dict[str, Any]:
        image = next(images)[1] if one["type"] == "image" else None
        return {"type": "image", "url": image.data_uri, "name": image.name} if image else dict(one)

    return [
        {"role": message["role"], "content": [part(one) for one in message["content"]]}
        for message in conversation.chat.messages
    ]


def _taken(message: Any, images: list[AttachedImage], conversation: Conversation) -> Any:
    """A message with its images apart; what is no message is for `Chat.restore` to refuse."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    parts = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "image":
            images.append(_image(part, conversation))
            part = {"type": "image"}
        parts.append(part)
    return {**message, "content": parts}


def _image(part: Mapping[str, Any], conversation: Conversation) -> AttachedImage:
    builder = conversation.chat.pipeline.builder
    source = next((part[key] for key in ("url", "path", "image") if isinstance(part.get(key), str)), None)
    if source is None and isinstance(part.get("base64"), str):
        source = f"data:image/png;base64,{part['base64']}"
    if source is None:
        raise PromptError("an image of the conversation has neither a url with a data URI nor a path")
    if source.startswith("data:"):
        name = part.get("name")
        return embedded(source, name if isinstance(name, str) else "image", builder)
    return attached(source, builder)


def _read(path: str) -> Any:
    """A file's JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:  # noqa: PTH123
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is not a file")
            if status.st_size > MOST_BYTES:
                raise ValueError(f"it has {status.st_size:,} bytes, expected {MOST_BYTES:,} at most")
            data = file.read(MOST_BYTES + 1)
        return json.loads(data.decode(), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"the conversation {path!r} cannot be loaded: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON ({error.msg}, line {error.lineno})"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _write(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Through a file beside it, so that a full disk leaves what was there."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(path)
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
