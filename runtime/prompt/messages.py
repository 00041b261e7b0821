"""Conversations in the Hugging Face form, checked.

Enters: a question, or a list of `{"role", "content"}` whose content is text or a list of
`{"type": "image"}` and `{"type": "text", "text": …}`; images inside them were taken out already (`message_images.py`).
Leaves: `Message` objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pumice.errors import PromptError

ROLES = ("system", "user", "assistant", "tool", "developer")

Content = str | tuple[str | None, ...]
"""Text alone; or parts, where None is an image."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. `content` is text alone, or a tuple of parts: texts, and None for an image."""

    role: str
    content: Content

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, in order."""
        parts = (self.content,) if isinstance(self.content, str) else self.content
        return tuple(part for part in parts if part is not None)

    def as_dict(self, text: Callable[[str], str] = str) -> dict[str, Any]:
        """The form that chat templates read, with `text` applied to each text."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": text(self.content)}
        parts = [{"type": "image"} if p is None else {"type": "text", "text": text(p)} for p in self.content]
        return {"role": self.role, "content": parts}

    def in_parts(self) -> Message:
        """The same message with its text as the only part of a list."""
        content = (self.content,) if isinstance(self.content, str) else self.content
        return Message(role=self.role, content=content)


def as_messages(prompt: str | Sequence[Mapping[str, Any]], images: int) -> list[Message]:
    """Messages of a prompt; a plain string is a user's question about all `images`, which come first.

    Raises:
        PromptError: another form, or an unknown role.
    """
    if isinstance(prompt, str):
        return [Message(role="user", content=(*[None] * images, prompt))]
    if isinstance(prompt, Sequence) and prompt and not isinstance(prompt, (bytes, bytearray)):
        return [_message(message, i) for i, message in enumerate(prompt)]
    raise PromptError(f"expected a question or a list of messages, got {_kind(prompt)}")


def _message(message: Any, index: int) -> Message:
    where = f"message {index}"
    if not isinstance(message, Mapping):
        raise PromptError(f"{where} is {_kind(message)}, expected a dict with role and content")
    unknown = {key for key, value in message.items() if value is not None} - {"role", "content"}
    if unknown or "content" not in message:
        keys = ", ".join(map(repr, message)) or "none"
        raise PromptError(f"{where} has the keys {keys}; expected 'role' and 'content'")
    role, content = message.get("role"), message["content"]
    if role not in ROLES:
        raise PromptError(f"{where} has the role {role!r}; expected one of {', '.join(ROLES)}")
    if isinstance(content, str):
        return Message(role=role, content=content)
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise PromptError(f"{where} has a content of {_kind(content)}, expected text or a list of parts")
    return Message(role=role, content=tuple(_part(part, where) for part in content))


def _part(part: Any, where: str) -> str | None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "image":
        return None
    if kind == "text" and isinstance(part.get("text"), str):
        text: str = part["text"]
        if unknown := [
            key for key, value in part.items() if value is not None and key not in ("type", "text")
        ]:
            raise PromptError(f"{where} has a text part with the unknown key {unknown[0]!r}; expected text")
        return text
    raise PromptError(
        f"{where} has a part that is neither {{'type': 'text', 'text': '…'}} nor an image: {{'type': 'image'}} for "
        "one of images=[…], or with the image itself as image, url, path or base64, or OpenAI's 'image_url'"
    )


def _kind(value: object) -> str:
    return "an empty list" if isinstance(value, Sequence) and not value else f"a {type(value).__name__}"
