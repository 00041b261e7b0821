"""Whose words are whose in a rendered prompt.

Enters: a chat template and messages. Leaves: the rendered text in spans, each the template's own or a user's.

The template is rendered twice: with the texts, and with a secret word in place of each text. The second rendering shows
where the texts stand; filling them in must give the first.

    rendered   "USER: <image>\\nIs this </s>? ASSISTANT:"
    skeleton   "USER: <image>\\nk3f…0x ASSISTANT:"   →   [USER: <image>\\n] (Is this </s>?) [ ASSISTANT:]
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence

from pumice.errors import PromptError
from pumice.prompt.messages import Message
from pumice.prompt.sealed import Span
from pumice.prompt.template import ChatTemplate
from pumice.prompt.tokenizer import PromptTokenizer


def render_spans(
    template: ChatTemplate, messages: Sequence[Message], tokenizer: PromptTokenizer
) -> list[Span]:
    """The rendered prompt; joined, the spans' texts are what transformers renders for the same messages.

    A template that passes over a content that is text alone gets it as a list with one part.

    Raises:
        PromptError: the template cannot be rendered, leaves a text out, or mixes the texts with its own words so that
            special tokens in them cannot be told apart.
    """
    skeleton = _Skeleton(template, messages)
    if skeleton.missing and any(isinstance(message.content, str) for message in messages):
        messages = [message.in_parts() for message in messages]
        skeleton = _Skeleton(template, messages)
    if skeleton.leaves_out(messages[-1]):
        raise PromptError(
            f"the chat template leaves out the text of the last message ({messages[-1].role!r})"
        )
    rendered = template.render([message.as_dict() for message in messages])
    spans = skeleton.match(rendered)
    if spans is None:
        spans = [Span(text=rendered, trusted=True)]
        if _control_tokens(tokenizer, rendered) != _control_tokens(tokenizer, skeleton.text):
            raise PromptError(
                "a message contains the text of a special token, and this bundle's chat template changes messages "
                "in a way that hides which words are whose: remove the token's text"
            )
    return spans


class _Skeleton:
    """A template's rendering with secret words for texts."""

    def __init__(self, template: ChatTemplate, messages: Sequence[Message]) -> None:
        self._nonce = "k" + secrets.token_hex(12)
        self._texts: list[str] = []
        self.text = template.render([message.as_dict(self._word) for message in messages])
        found = {int(number) for number in re.findall(f"{self._nonce}(\\d{{6}})x", self.text, re.IGNORECASE)}
        self.missing = {i for i, text in enumerate(self._texts) if text.strip()} - found

    def leaves_out(self, last: Message) -> bool:
        """Whether nothing of the last message's texts is in the rendering."""
        first = len(self._texts) - len(last.texts)
        spoken = {i for i in range(first, len(self._texts)) if self._texts[i].strip()}
        return bool(spoken) and spoken <= self.missing

    def _word(self, text: str) -> str:
        self._texts.append(text)
        return f"{self._nonce}{len(self._texts) - 1:06}x"

    def match(self, rendered: str) -> list[Span] | None:
        """The rendering in spans, or None if the texts, whole or without outer white space, do not fill it.

        Positions reached so far are kept with the spans that led there, because texts may end in several ways.
        """
        reached: dict[int, tuple[Span, ...]] = {0: ()}
        for is_text, piece in self._pieces():
            following: dict[int, tuple[Span, ...]] = {}
            for position, spans in reached.items():
                for variant in _variants(piece) if is_text else [piece]:
                    if rendered.startswith(variant, position):
                        span = Span(text=variant, trusted=not is_text)
                        following.setdefault(position + len(variant), (*spans, span))
            reached = following
        spans_to_end = reached.get(len(rendered))
        return None if spans_to_end is None else _joined(spans_to_end)

    def _pieces(self) -> Iterator[tuple[bool, str]]:
        """The template's words (False) and texts (True) in turn."""
        for i, piece in enumerate(re.split(f"{self._nonce}(\\d{{6}})x", self.text)):
            yield (True, self._texts[int(piece)]) if i % 2 else (False, piece)


def _joined(spans: Sequence[Span]) -> list[Span]:
    """The spans without empty ones, the template's own joined where nothing stands between them."""
    groups = itertools.groupby((span for span in spans if span.text), key=lambda span: span.trusted)
    return [Span(text="".join(span.text for span in group), trusted=trusted) for trusted, group in groups]


def _variants(text: str) -> list[str]:
    """The text as templates may show it: whole, or stripped at its ends of Python's white space or of Rust's."""
    separators = "\x1c\x1d\x1e\x1f"  # white space to Python only
    white = "".join(
        character for character in set(text) if character.isspace() and character not in separators
    )
    return list(
        dict.fromkeys(
            [
                text,
                text.strip(),
                text.rstrip(),
                text.lstrip(),
                text.strip(white),
                text.rstrip(white),
                text.lstrip(white),
            ]
        )
    )


def _control_tokens(tokenizer: PromptTokenizer, text: str) -> Counter[int]:
    return Counter(i for i in tokenizer.encode(text) if i in tokenizer.control_ids)
