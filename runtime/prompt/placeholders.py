"""Where images and videos stand in a prompt: one placeholder each in the text, many tokens in the ids.

Enters: the spans of a prompt, and what stands for each image and video. Leaves: the spans with every one's tokens in
place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from pumice.prompt.messages import Medium, Tokens
from pumice.prompt.sealed import Span

_T = TypeVar("_T")


def places(spans: Sequence[Span], tokens: Tokens) -> list[Medium]:
    """What the trusted spans have a place for, in their order."""
    media, pattern = {token: medium for medium, token in tokens.items()}, _pattern(tokens)
    return [media[token] for span in spans if span.trusted for token in pattern.findall(span.text)]


def in_places(order: Sequence[Medium], given: Mapping[Medium, Sequence[_T]]) -> list[_T]:
    """Images and videos, of each kind as many as there are places, in the order of their places."""
    following = {medium: iter(ones) for medium, ones in given.items()}
    return [next(following[medium]) for medium in order]


def insert_media(spans: Sequence[Span], tokens: Tokens, texts: Sequence[str]) -> list[Span]:
    """The spans with texts at their places, of which there are as many."""
    pattern, following = _pattern(tokens), iter(texts)
    return [
        replace(span, text=_filled(span.text, pattern, following)) if span.trusted else span for span in spans
    ]


def _filled(text: str, pattern: re.Pattern[str], texts: Iterator[str]) -> str:
    return pattern.sub(lambda _: next(texts), text)


def _pattern(tokens: Tokens) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, tokens.values())))
