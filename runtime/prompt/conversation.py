"""A whole conversation as messages: the questions with their answers, checked.

Enters: messages in the Hugging Face form, as `Chat.messages` gives them. Leaves: the system prompt, and questions,
whose images and videos stand before their text, each followed by its answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pumice.errors import PromptError


def apart(messages: Sequence[Mapping[str, Any]]) -> tuple[str | None, Sequence[Mapping[str, Any]]]:
    """The system prompt, and the questions with their answers.

    Raises:
        PromptError: something else.
    """
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.keys() != {"role", "content"}:
            raise PromptError(f"message {index} of the conversation is no dict of role and content alone")
    begins = 1 if messages and messages[0]["role"] == "system" else 0
    spoken = messages[begins:]
    for index, message in enumerate(spoken):
        expected = ("user", "assistant")[index % 2]
        message_text(message)
        if message["role"] != expected:
            raise PromptError(
                f"message {index + begins} of the conversation has the role {message['role']!r:.40}, expected "
                f"{expected!r}: a chat has questions, each with its answer, behind a system prompt or none"
            )
        if index % 2 and image_count(message):
            raise PromptError(f"message {index + begins} of the conversation is an answer with an image")
    if len(spoken) % 2:
        raise PromptError(
            "the conversation ends with a question that has no answer: leave it out, and ask it anew"
        )
    return (message_text(messages[0]) if begins else None), spoken


def image_count(message: Mapping[str, Any]) -> int:
    """Images and videos of a message that `message_text` takes."""
    content = message["content"]
    return 0 if isinstance(content, str) else len(content) - 1


def message_text(message: Mapping[str, Any]) -> str:
    """A message's text, which stands behind its images and videos.

    Raises:
        PromptError: another form.
    """
    content = message["content"]
    if isinstance(content, str):
        return content
    parts = [*content] if isinstance(content, (list, tuple)) else []
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in parts]
    if (
        kinds
        and kinds[-1] == "text"
        and set(kinds[:-1]) <= {"image", "video"}
        and isinstance(parts[-1].get("text"), str)
    ):
        text: str = parts[-1]["text"]
        return text
    raise PromptError(
        f"a message of the conversation from {message['role']!r} has another form than a chat's: expected text, or a "
        "list of its images and then one text"
    )
