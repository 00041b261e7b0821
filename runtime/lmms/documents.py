"""What a task says of a document, as messages with their images.

Enters: messages in lmms-eval's form, or a context with what there is to see. Leaves: an `Asked`. lmms-eval writes an
image's part with `url`, whatever the image is; frames of videos and sounds are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pumice.errors import PromptError

PLACE = "<image>"
"""How lmms-eval writes an image's place in a context."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Messages with a bare place for each of `images`, in order."""

    messages: tuple[Mapping[str, Any], ...]
    images: tuple[Any, ...] = ()


def from_messages(messages: Sequence[Mapping[str, Any]], system: str | None = None) -> Asked:
    """Of a task's `doc_to_messages`; a `system` prompt replaces the task's own.

    Raises:
        PromptError: a part that is neither text nor an image.
    """
    images: list[Any] = []
    told = [
        {"role": message["role"], "content": _content(message["content"], images)} for message in messages
    ]
    if system is not None:
        told = [{"role": "system", "content": [{"type": "text", "text": system}]}] + [
            message for message in told if message["role"] != "system"
        ]
    return Asked(messages=tuple(told), images=tuple(images))


def from_context(context: str, visuals: Any, system: str | None = None) -> Asked:
    """Of a task's context, and what its `doc_to_visual` gave.

    Images come first, or where `<image>` is written in the context, if it is once for each.

    Raises:
        PromptError: something to see that is no image.
    """
    images = [_image(visual) for visual in _flat(visuals)]
    pieces = context.split(PLACE)
    if not images or len(pieces) != len(images) + 1:
        pieces = [""] * len(images) + [context]
    content: list[dict[str, Any]] = []
    for i, piece in enumerate(pieces):
        content += [{"type": "image", "url": images[i - 1]}] if i else []
        content += [{"type": "text", "text": piece}] if piece or i == len(pieces) - 1 else []
    return from_messages([{"role": "user", "content": content}], system)


def _content(content: Any, images: list[Any]) -> str | list[dict[str, Any]]:
    """A message's content with bare places; its images go behind `images`."""
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for part in content:
        kind = part.get("type")
        if kind == "text":
            parts.append({"type": "text", "text": part["text"]})
        elif kind == "image":
            images.append(_image(part.get("url", part.get("image"))))
            parts.append({"type": "image"})
        else:
            raise PromptError(
                f"the task has a part of type {kind!r}, expected text or image: pumice sees images only"
            )
    return parts


def _image(visual: Any) -> Any:
    """As it is: whatever of it is no image is refused where images are read."""
    if isinstance(visual, Mapping):
        raise PromptError(
            f"the task shows something with {', '.join(map(repr, visual))}, expected an image: sounds and videos are "
            "not read"
        )
    return visual


def _flat(visuals: Any) -> list[Any]:
    """The images of nested lists; None is none."""
    if visuals is None:
        return []
    if isinstance(visuals, list | tuple):
        return [image for visual in visuals for image in _flat(visual)]
    return [visuals]
