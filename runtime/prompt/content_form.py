"""In which form a chat template takes a message's content: as text, or as a list of parts.

Enters: a template, and messages as they were given. Leaves: the messages as the template takes them.

Some templates join `message['content']` to other text, some go through a list of parts, some ask which of both it is;
and one may take a system's words in another way than a user's. So each role's form is found by rendering one message
with a secret word, when the role first occurs:

    a list is understood, shown otherwise than as Python's or JSON's form of it    →  lists stay
    text alone is understood                                                       →  lists become text
    a list is understood, but an image in it changes nothing                       →  it is written in the text

As text, parts are lines, and an image is its token on a line of its own, as vLLM has it and as LLaVA was trained.
Videos are as images, and asked about only where the model takes some.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pumice.prompt.messages import Medium, Message
from pumice.prompt.template import ChatTemplate, TemplateRefusalError


@dataclass(frozen=True, kw_only=True)
class ContentForm:
    """What a template understands of a role's content: `text`, `parts`, and `images` and `videos` among the parts."""

    text: bool
    parts: bool
    images: bool
    videos: bool = False

    def adapted(self, message: Message) -> Message:
        """A message of this role, as the template takes it."""
        if isinstance(message.content, str):
            return message.in_parts() if self.parts and not self.text else message
        if self.text and not self.parts:
            return message.in_text()
        if self.parts and not isinstance(message.content, tuple):
            message = message.in_parts()
        unseen = {Medium.IMAGE: not self.images, Medium.VIDEO: not self.videos}
        hidden = any(isinstance(part, Medium) and unseen[part] for part in message.parts)
        return message.with_written_media() if self.parts and hidden else message


class ContentForms:
    """The forms of a template's roles, each found once; those of videos where there are `videos`."""

    def __init__(self, template: ChatTemplate, *, videos: bool = False) -> None:
        self._template, self._media = template, [*Medium] if videos else [Medium.IMAGE]
        self._found: dict[str, ContentForm] = {}

    def adapted(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the template takes them."""
        return [self.of(message.role).adapted(message) for message in messages]

    def of(self, role: str) -> ContentForm:
        """A role's form; where nothing of the role is understood, content stays as it is given."""
        if role not in self._found:
            self._found[role] = self._probed(role)
        return self._found[role]

    def _probed(self, role: str) -> ContentForm:
        word = "k" + secrets.token_hex(12)
        part = {"type": "text", "text": word}
        text = self._rendered(role, word)
        parts = self._rendered(role, [part])
        seen = {}
        for medium in self._media:
            rendered = self._rendered(role, [{"type": medium.value}, part])
            seen[medium] = _shows(rendered, word) and rendered != parts
        return ContentForm(
            text=_shows(text, word),
            parts=_shows(parts, word),
            images=seen[Medium.IMAGE],
            videos=seen.get(Medium.VIDEO, False),
        )

    def _rendered(self, role: str, content: Any) -> str:
        """A short conversation with this content, in lower case; nothing where the template refuses it."""
        try:
            return self._template.render(self._conversation(role, content)).lower()
        except TemplateRefusalError:
            return ""

    def _conversation(self, role: str, content: Any) -> list[dict[str, Any]]:
        message = {"role": role, "content": content}
        if role == "user":
            return [message]
        asked = self.of("user").adapted(Message(role="user", content=("x",))).as_dict()
        if role in ("system", "developer"):
            return [message, asked]
        if role == "assistant":
            return [asked, message, asked]
        said = self.of("assistant").adapted(Message(role="assistant", content=("x",))).as_dict()
        return [asked, said, message, said, asked]


def _shows(rendered: str, word: str) -> bool:
    """Whether the word is there, other than in Python's or JSON's form of a part."""
    written_out = sum(rendered.count(form) for form in (f"'text': '{word}'", f'"text": "{word}"'))
    return rendered.count(word) > written_out
