"""Messages and pictures become what the graphs take: token ids and pixel values.

Enters: a question, a conversation or a raw prompt, and its pictures. Leaves: `Prepared`.

    messages ─chat template─▶ text ─whose words are whose─▶ spans ─sealed tokenizer─▶ input_ids  [1, T]
    pictures ─preprocess────────────────────────────────────────────────────────────▶ pixel_values [N, 3, H, W]

One picture is one `<image>` in the text and `per_image` equal ids in `input_ids`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pumice.chat_template import ChatTemplate
from pumice.errors import ContextLengthError, PromptError
from pumice.images import ImageInput
from pumice.manifest import Manifest
from pumice.messages import as_messages
from pumice.preprocess import preprocess
from pumice.spans import render_spans
from pumice.tokens import PromptTokenizer

Prompt: TypeAlias = "str | Sequence[Mapping[str, Any]]"

_MAX_TEXT = 1_000_000
"""Characters of a prompt, where the context is not of that order itself."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prompt as the graphs take it.

    `input_ids` is int64 [1, T] with every picture's tokens in place; `pixel_values` is float32 [N, 3, H, W], where N
    may be 0; `image_tokens` of the T tokens stand for pictures.
    """

    input_ids: NDArray[np.int64]
    pixel_values: NDArray[np.float32]
    image_tokens: int

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.input_ids.shape[1])


class PromptBuilder:
    """Prepares prompts for one bundle; holds its tokenizer and chat template (None: raw prompts only)."""

    def __init__(self, manifest: Manifest, tokenizer: PromptTokenizer, template: ChatTemplate | None) -> None:
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._template = template

    def prepare(self, prompt: Prompt, images: Sequence[ImageInput] = (), *, raw: bool = False) -> Prepared:
        """Token ids and pixel values of a prompt; the text is checked before the first picture is opened.

        Raises:
            PromptError: no chat template, messages of another form, placeholders and pictures that differ in number, …
            ContextLengthError: longer than the model's context.
            ImageError: a picture cannot be read.
        """
        return Prepared(
            input_ids=np.array([self.ids(prompt, len(images), raw=raw)], np.int64),
            pixel_values=self.pixels(images),
            image_tokens=len(images) * self._manifest.image_tokens.per_image,
        )

    def ids(self, prompt: Prompt, pictures: int, *, raw: bool = False) -> list[int]:
        """Token ids of a prompt with so many pictures. Raises as `prepare`."""
        context = self._manifest.decoder.context_length
        image_tokens = pictures * self._manifest.image_tokens.per_image
        if image_tokens > context:
            raise ContextLengthError(
                f"the prompt's {pictures} pictures have {image_tokens:,} tokens, but the model's context is {context:,}"
            )
        ids = self._raw_ids(prompt, pictures) if raw else self._chat_ids(prompt, pictures)
        if len(ids) > context:
            raise ContextLengthError(
                f"the prompt has {len(ids):,} tokens, but the model's context is {context:,}: shorten it"
            )
        return ids

    def pixels(self, images: Sequence[ImageInput]) -> NDArray[np.float32]:
        """Pixel values of pictures, float32 [N, 3, H, W]."""
        return preprocess(images, self._manifest.image)

    def _raw_ids(self, prompt: Prompt, pictures: int) -> list[int]:
        if not isinstance(prompt, str):
            raise PromptError(f"a raw prompt is a string, got {type(prompt).__name__}")
        self._check_texts([prompt])
        image = self._manifest.image_tokens
        self._check_placeholders(prompt.count(image.token), pictures)
        ids = self._tokenizer.encode(prompt.replace(image.token, image.token * image.per_image))
        return self._checked(ids, pictures)

    def _chat_ids(self, prompt: Prompt, pictures: int) -> list[int]:
        if self._template is None:
            raise PromptError("this bundle has no chat template: pass a prompt of your own with raw=True")
        messages = as_messages(prompt, pictures)
        self._check_texts([text for message in messages for text in message.texts])
        spans = render_spans(self._template, messages, self._tokenizer)
        image = self._manifest.image_tokens
        self._check_placeholders(sum(s.text.count(image.token) for s in spans if s.trusted), pictures)
        expanded = [
            replace(s, text=s.text.replace(image.token, image.token * image.per_image)) if s.trusted else s
            for s in spans
        ]
        bos = self._manifest.tokens.bos_token
        starts_with_bos = bool(bos and spans and spans[0].trusted and spans[0].text.startswith(bos))
        ids = self._tokenizer.encode_spans(expanded, add_special_tokens=not starts_with_bos)
        return self._checked(ids, pictures)

    def _check_texts(self, texts: Sequence[str]) -> None:
        """Before any work is done: not so long that no tokenizer could make it fit, and Unicode."""
        length, context = sum(map(len, texts)), self._manifest.decoder.context_length
        if length > max(_MAX_TEXT, 16 * context):
            raise ContextLengthError(
                f"the prompt has {length:,} characters, too many for the model's context of {context:,} tokens: "
                "shorten it"
            )
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise PromptError(
                    f"the prompt is not valid Unicode: a lone surrogate at position {error.start}"
                ) from None

    def _check_placeholders(self, placeholders: int, pictures: int) -> None:
        if placeholders != pictures:
            token = self._manifest.image_tokens.token
            raise PromptError(
                f"the prompt has {placeholders} {token} {'placeholder' if placeholders == 1 else 'placeholders'}, "
                f"but {pictures} {'picture was' if pictures == 1 else 'pictures were'} given: "
                "they must be equal in number"
            )

    def _checked(self, ids: list[int], pictures: int) -> list[int]:
        """The ids, once it is certain that each picture's features have a place."""
        image = self._manifest.image_tokens
        if ids.count(image.token_id) != pictures * image.per_image:
            raise PromptError(
                f"the prompt has {ids.count(image.token_id)} image tokens after tokenisation, "
                f"but its pictures have {pictures * image.per_image} features"
            )
        if not ids:
            raise PromptError("the prompt is empty")
        return ids
