"""Where images stand in a prompt: one placeholder each in the text, many tokens in the ids.

Enters: the spans of a prompt and its images' sizes. Leaves: the spans with every image's tokens in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pumice.images.layout import image_text
from pumice.images.preprocess import Size
from pumice.manifest import ImageLayout
from pumice.prompt.sealed import Span


def count_placeholders(spans: Sequence[Span], token: str) -> int:
    """Images that the trusted spans have a place for."""
    return sum(span.text.count(token) for span in spans if span.trusted)


def insert_images(
    spans: Sequence[Span], token: str, layout: ImageLayout, sizes: Sequence[Size]
) -> list[Span]:
    """The spans with each image's tokens at its place; there are as many places as `sizes`."""
    texts = (image_text(layout, token, size) for size in sizes)
    return [replace(span, text=_filled(span.text, token, texts)) if span.trusted else span for span in spans]


def _filled(text: str, token: str, images: Iterator[str]) -> str:
    first, *others = text.split(token)
    return first + "".join(next(images) + other for other in others)
