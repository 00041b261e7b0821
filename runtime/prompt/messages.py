"""Conversations in the Hugging Face form, checked.

Enters: a question, or a list of `{"role", "content"}` whose content is text or a list of `{"type": "image"}`,
`{"type": "video"}` and `{"type": "text", "text": …}`; images and videos inside them were taken out already
(`message_images.py`). Leaves: `Message` objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from pumice.errors import PromptError

ROLES = ("system", "user", "assistant", "tool", "developer")


class Medium(Enum):
    """What stands between texts; the value is the type of its part of a message."""

    IMAGE = "image"
    VIDEO = "video"


Tokens: TypeAlias = Mapping[Medium, str]
"""What stands for one in a text."""
IMAGE_TOKEN: Tokens = {Medium.IMAGE: "<image>"}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A text with images or videos written in it: texts, and a `Medium` where its token stands."""

    pieces: tuple[str | Medium, ...]


Part = str | Written | Medium
"""Text, text with images in it, or an image or video."""

Content = str | Written | tuple[Part, ...]
"""Text alone, with images in it or not; or parts."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. `content` is text alone, or a tuple of parts: texts, images, videos."""

    role: str
    content: Content

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts."""
        return self.content if isinstance(self.content, tuple) else (self.content,)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, in order."""
        return tuple(piece for piece in _pieces(self.parts) if isinstance(piece, str))

    def as_dict(self, text: Callable[[str], str] = str, *, tokens: Tokens = IMAGE_TOKEN) -> dict[str, Any]:
        """The form that chat templates read, with `text` applied to each text.

        `tokens` stand for images and videos that are written in a text.
        """

        def whole(part: str | Written) -> str:
            pieces = part.pieces if isinstance(part, Written) else (part,)
            return "".join(tokens[piece] if isinstance(piece, Medium) else text(piece) for piece in pieces)

        if not isinstance(self.content, tuple):
            return {"role": self.role, "content": whole(self.content)}
        parts = [
            {"type": part.value} if isinstance(part, Medium) else {"type": "text", "text": whole(part)}
            for part in self.content
        ]
        return {"role": self.role, "content": parts}

    def in_parts(self) -> Message:
        """The same message with its text as the only part of a list."""
        return Message(role=self.role, content=self.parts)

    def in_text(self) -> Message:
        """The same message as text alone: parts are lines of it, images and videos are written in their places."""
        if isinstance(self.content, str):
            return self
        lines: list[str | Medium] = []
        for part in self.parts:
            lines += ["\n", *_pieces([part])] if lines else _pieces([part])
        return Message(role=self.role, content=_written(lines))

    def with_written_media(self) -> Message:
        """The same message, images and videos written in its text, which is the only part of a list."""
        return self.in_text().in_parts() if any(isinstance(part, Medium) for part in self.parts) else self


def _pieces(parts: Sequence[Part]) -> list[str | Medium]:
    pieces: list[str | Medium] = []
    for part in parts:
        pieces += part.pieces if isinstance(part, Written) else [part]
    return pieces


def _written(pieces: Sequence[str | Medium]) -> str | Written:
    """A text of these pieces; neighbours are one."""
    joined: list[str | Medium] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, str) and isinstance(last, str):
            joined[-1] = last + piece
        elif piece != "":
            joined.append(piece)
    texts = [piece for piece in joined if isinstance(piece, str)]
    return "".join(texts) if len(texts) == len(joined) else Written(pieces=tuple(joined))


def question(text: str, given: Mapping[Medium, int], tokens: Tokens) -> Message:
    """A user's question about images and videos: these come first, or where their token is written, once for each.

    Raises:
        PromptError: a token is written, but not once for each image or video.
    """
    pieces: list[str | Medium] = [text]
    first: list[Medium] = []
    for medium, token in tokens.items():
        count, written = given.get(medium, 0), text.count(token)
        if not count or not written:
            first += [medium] * count
        elif written != count:
            raise PromptError(
                f"the question has {token} written in it {_times(written)}, and there {_are(count, medium)}: "
                f"write it once for each {medium.value}, or not at all; "
                "in messages [{'role', 'content'}] it is a word like others"
            )
        else:
            pieces = _split(pieces, token, medium)
    written_out = _written(pieces)
    return Message(role="user", content=(*first, written_out if isinstance(written_out, Written) else text))


def _split(pieces: Sequence[str | Medium], token: str, medium: Medium) -> list[str | Medium]:
    """The pieces, with the medium in place of its token."""
    found: list[str | Medium] = []
    for piece in pieces:
        if isinstance(piece, Medium):
            found.append(piece)
            continue
        first, *others = piece.split(token)
        found.append(first)
        for other in others:
            found += [medium, other]
    return found


def _are(count: int, medium: Medium) -> str:
    return f"is 1 {medium.value}" if count == 1 else f"are {count} {medium.value}s"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def as_messages(
    prompt: str | Sequence[Mapping[str, Any] | Message],
    given: Mapping[Medium, int],
    tokens: Tokens = IMAGE_TOKEN,
) -> list[Message]:
    """Messages of a prompt; a plain string is a user's `question` about all that is `given`.

    Raises:
        PromptError: another form, or an unknown role.
    """
    if isinstance(prompt, str):
        return [question(prompt, given, tokens)]
    if isinstance(prompt, Sequence) and prompt and not isinstance(prompt, (bytes, bytearray)):
        return [m if isinstance(m, Message) else _message(m, i, tokens) for i, m in enumerate(prompt)]
    raise PromptError(f"expected a question or a list of messages, got {_kind(prompt)}")


def _message(message: Any, index: int, tokens: Tokens) -> Message:
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
    return Message(role=role, content=tuple(_part(part, where, tokens) for part in content))


def _part(part: Any, where: str, tokens: Tokens) -> str | Medium:
    kind = part.get("type") if isinstance(part, Mapping) else None
    for medium in tokens:
        if kind == medium.value:
            return medium
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
        + ("; or a video likewise" if Medium.VIDEO in tokens else "")
    )


def _kind(value: object) -> str:
    return "an empty list" if isinstance(value, Sequence) and not value else f"a {type(value).__name__}"
