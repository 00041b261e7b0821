"""A chat template is rendered once, so that one which the runtime cannot render is known before a bundle is made.

Enters: a template, and the tokenizer whose special tokens it names. Leaves: nothing; an error where the runtime refuses
what transformers renders, and a warning where it renders other text.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pumice import ChatTemplate
from pumice.errors import CheckpointError, PromptError

_SPECIALS = ("bos_token", "eos_token", "unk_token", "pad_token")


def _turn(role: str, words: str, *, image: bool = False) -> dict[str, Any]:
    return {"role": role, "content": [*[{"type": "image"}] * image, {"type": "text", "text": words}]}


_ASKED, _ABOUT_IMAGE = _turn("user", "What is this?"), _turn("user", "What is this?", image=True)
_PARTS = {
    "a question": [_ASKED],
    "a question about an image": [_ABOUT_IMAGE],
    "a system's words": [_turn("system", "Be brief."), _ASKED],
    "several turns": [_ABOUT_IMAGE, _turn("assistant", "A cat."), _turn("user", "What colour is it?")],
}


def _as_text(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**message, "content": message["content"][-1]["text"]} for message in messages]


CONVERSATIONS = _PARTS | {f"{name}, as text": _as_text(messages) for name, messages in _PARTS.items()}


def check_template(source: str, tokenizer: Any, path: Path) -> None:
    """Compare the runtime's rendering with transformers', wherever that has one.

    Raises:
        CheckpointError: the runtime cannot render what transformers renders.
    """
    variables = {name: text for name in _SPECIALS if (text := getattr(tokenizer, name)) is not None}
    template = ChatTemplate(source, variables)
    for name, messages in CONVERSATIONS.items():
        expected = _of_transformers(source, messages, variables)
        if expected is None:
            continue
        try:
            rendered = template.render(messages)
        except PromptError as error:
            raise CheckpointError(
                f"{path}: transformers renders {name} by the chat template, and pumice cannot: {error} "
                "(docs/templates.md has what templates may use)"
            ) from None
        if rendered != expected:
            logging.getLogger("pumice").warning(
                "%s: the chat template renders %s as %r, and by transformers as %r",
                path,
                name,
                rendered[:200],
                expected[:200],
            )
            return


def _of_transformers(source: str, messages: list[dict[str, Any]], variables: dict[str, str]) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        (rendered,), _ = render_jinja_template(
            [messages], chat_template=source, add_generation_prompt=True, **variables
        )
    except Exception:  # the template refuses this conversation, or uses what transformers does not have
        return None
    return str(rendered)
