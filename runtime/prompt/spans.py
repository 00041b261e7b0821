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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pumice.errors import PromptError
from pumice.prompt.messages import IMAGE_TOKEN, Message, Tokens
from pumice.prompt.sealed import Span
from pumice.prompt.template import ChatTemplate
from pumice.prompt.tokenizer import PromptTokenizer

CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG "
"""Stands behind the words that the model is to go on with; transformers' own, blank included."""


def render_spans(
    template: ChatTemplate,
    messages: Sequence[Message],
    tokenizer: PromptTokenizer,
    *,
    tokens: Tokens = IMAGE_TOKEN,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
) -> list[Span]:
    """The rendered prompt; joined, the spans' texts are what transformers renders for the same messages.

    The messages are in the template's form (`content_form.py`); `tokens` stand for images and videos written in texts.
    A prompt that continues the last message ends with that message's words.

    Raises:
        PromptError: the template cannot be rendered, leaves a text out, or mixes the texts with its own words so that
            special tokens in them cannot be told apart.
    """
    if continue_final_message and not messages[-1].texts:
        raise PromptError("there is no text in the last message that could be continued")
    renderer = _Renderer(
        template=template,
        messages=messages,
        tokens=tokens,
        add_generation_prompt=add_generation_prompt,
        continued=continue_final_message,
    )
    skeleton = _Skeleton(renderer)
    if skeleton.leaves_out(messages[-1]):
        raise PromptError(
            f"the chat template leaves out the text of the last message ({messages[-1].role!r})"
        )
    rendered = renderer.render(str)
    spans = skeleton.match(rendered)
    if spans is None:
        spans = [Span(text=rendered, trusted=True)]
        if _control_tokens(tokenizer, rendered) != _control_tokens(tokenizer, skeleton.text):
            raise PromptError(
                "a message contains the text of a special token, and this bundle's chat template changes messages "
                "in a way that hides which words are whose: remove the token's text"
            )
    return spans


@dataclass(frozen=True, kw_only=True)
class _Renderer:
    """A conversation and how it is rendered."""

    template: ChatTemplate
    messages: Sequence[Message]
    tokens: Tokens
    add_generation_prompt: bool
    continued: bool

    def render(self, text: Callable[[str], str]) -> str:
        """The prompt, with `text` applied to each text."""
        *before, last = self.messages
        final = itertools.count(1)

        def tagged(words: str) -> str:
            return text(words) + CONTINUED * (self.continued and next(final) == len(last.texts))

        given = [message.as_dict(text, tokens=self.tokens) for message in before]
        given.append(last.as_dict(tagged, tokens=self.tokens))
        rendered = self.template.render(given, add_generation_prompt=self.add_generation_prompt)
        return _cut(rendered) if self.continued else rendered


def _cut(rendered: str) -> str:
    """What stands before the tag; without white space at its end where the template trims."""
    before, tag, after = rendered.rpartition(CONTINUED.strip())
    if not tag:
        raise PromptError("the chat template does not show the last message as it is: it cannot be continued")
    return before if after.startswith(" ") else before.rstrip()


class _Skeleton:
    """A template's rendering with secret words for texts."""

    def __init__(self, renderer: _Renderer) -> None:
        self._nonce = "k" + secrets.token_hex(12)
        self._texts: list[str] = []
        self.text = renderer.render(self._word)
        found = {int(number) for number in re.findall(f"{self._nonce}(\\d{{6}})x", self.text, re.IGNORECASE)}
        self._missing = {i for i, text in enumerate(self._texts) if text.strip()} - found

    def leaves_out(self, last: Message) -> bool:
        """Whether nothing of the last message's texts is in the rendering."""
        first = len(self._texts) - len(last.texts)
        spoken = {i for i in range(first, len(self._texts)) if self._texts[i].strip()}
        return bool(spoken) and spoken <= self._missing

    def _word(self, text: str) -> str:
        self._texts.append(text)
        return f"{self._nonce}{len(self._texts) - 1:06}x"

    def match(self, rendered: str) -> list[Span] | None:
        """The rendering in spans, or None if the texts, whole or without outer white space, do not fill it.

        Positions reached so far are kept with the spans that led there, the last one first, because texts may end in
        several ways.
        """
        reached: dict[int, _Way | None] = {0: None}
        for is_text, piece in self._pieces():
            following: dict[int, _Way | None] = {}
            for position, spans in reached.items():
                for variant in _variants(piece) if is_text else [piece]:
                    if rendered.startswith(variant, position):
                        span = Span(text=variant, trusted=not is_text)
                        following.setdefault(position + len(variant), _Way(span=span, before=spans))
            reached = following
        way = reached.get(len(rendered))
        return None if way is None else _joined(way.spans())

    def _pieces(self) -> Iterator[tuple[bool, str]]:
        """The template's words (False) and texts (True) in turn."""
        for i, piece in enumerate(re.split(f"{self._nonce}(\\d{{6}})x", self.text)):
            yield (True, self._texts[int(piece)]) if i % 2 else (False, piece)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """Spans up to a position: the last one, and the way to it."""

    span: Span
    before: _Way | None

    def spans(self) -> list[Span]:
        """All of them, in order."""
        found, way = [self.span], self.before
        while way is not None:
            found.append(way.span)
            way = way.before
        return found[::-1]


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
