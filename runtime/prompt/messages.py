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


@dataclass(frozen=True, kw_only=True)
class Written:
    """A text with images written in it: texts, and None where an image's token stands."""

    pieces: tuple[str | None, ...]


Part = str | Written | None
"""Text, text with images in it, or None: an image."""

Content = str | Written | tuple[Part, ...]
"""Text alone, with images in it or not; or parts."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. `content` is text alone, or a tuple of parts: texts, and None for an image."""

    role: str
    content: Content

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts."""
        return self.content if isinstance(self.content, tuple) else (self.content,)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, in order."""
        return tuple(piece for piece in _pieces(self.parts) if piece is not None)

    def as_dict(self, text: Callable[[str], str] = str, *, image_token: str = "<image>") -> dict[str, Any]:
        """The form that chat templates read, with `text` applied to each text.

        `image_token` stands for an image that is written in a text.
        """

        def whole(part: str | Written) -> str:
            pieces = part.pieces if isinstance(part, Written) else (part,)
            return "".join(image_token if piece is None else text(piece) for piece in pieces)

        if not isinstance(self.content, tuple):
            return {"role": self.role, "content": whole(self.content)}
        parts = [{"type": "image"} if p is None else {"type": "text", "text": whole(p)} for p in self.content]
        return {"role": self.role, "content": parts}

    def in_parts(self) -> Message:
        """The same message with its text as the only part of a list."""
        return Message(role=self.role, content=self.parts)

    def in_text(self) -> Message:
        """The same message as text alone: parts are lines of it, images are written in their places."""
        if isinstance(self.content, str):
            return self
        lines: list[str | None] = []
        for part in self.parts:
            lines += ["\n", *_pieces([part])] if lines else _pieces([part])
        return Message(role=self.role, content=_written(lines))

    def with_written_images(self) -> Message:
        """The same message, images written in its text, which is the only part of a list."""
        return self.in_text().in_parts() if None in self.parts else self


def _pieces(parts: Sequence[Part]) -> list[str | None]:
    pieces: list[str | None] = []
    for part in parts:
        pieces += part.pieces if isinstance(part, Written) else [part]
    return pieces


def _written(pieces: Sequence[str | None]) -> str | Written:
    """A text of these pieces; neighbours are one."""
    joined: list[str | None] = []
    for piece in pieces:
        if piece and joined and joined[-1] is not None:
            joined[-1] += piece
        elif piece != "":
            joined.append(piece)
    return Written(pieces=tuple(joined)) if None in joined else "".join(piece or "" for piece in joined)


def question(text: str, images: int, image_token: str) -> Message:
    """A user's question about images, which come first, or where `image_token` is written in it, once for each.

    Raises:
        PromptError: the token is written, but not once for each image.
    """
    between = text.split(image_token)
    written = len(between) - 1
    if not images or not written:
        return Message(role="user", content=(*[None] * images, text))
    if written != images:
        raise PromptError(
            f"the question has {image_token} written in it {_times(written)}, and there "
            f"{'is 1 image' if images == 1 else f'are {images} images'}: write it once for each image, or not at all; "
            "in messages [{'role', 'content'}] it is a word like others"
        )
    pieces: list[str | None] = [between[0]]
    for piece in between[1:]:
        pieces += [None, piece]
    return Message(role="user", content=(_written(pieces),))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def as_messages(
    prompt: str | Sequence[Mapping[str, Any] | Message], images: int, image_token: str = "<image>"
) -> list[Message]:
    """Messages of a prompt; a plain string is a user's `question` about all `images`.

    Raises:
        PromptError: another form, or an unknown role.
    """
    if isinstance(prompt, str):
        return [question(prompt, images, image_token)]
    if isinstance(prompt, Sequence) and prompt and not isinstance(prompt, (bytes, bytearray)):
        return [m if isinstance(m, Message) else _message(m, i) for i, m in enumerate(prompt)]
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
