"""Messages and pictures become what the graphs take: token ids and pixel values.

Enters: a question, a conversation or a raw prompt, and its pictures. Leaves: `Prepared`.

    messages ─chat template─▶ text ─whose words are whose─▶ spans ─sealed tokenizer─▶ input_ids  [1, T]
    pictures ─preprocess────────────────────────────────────────────────────────────▶ pictures N × [3, H, W]
    (or their features, if they were encoded before)

One picture is one `<image>` in the text and many ids in `input_ids` (`picture_tokens.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pumice.errors import ContextLengthError, PromptError
from pumice.images.files import ImageInput
from pumice.images.layout import feature_count, token_count
from pumice.images.prepared import ImageFeatures, Pixels, PromptPicture, as_given, model_key, picture_digest
from pumice.images.preprocess import Picture, Size, padded_together, preprocess
from pumice.manifest import Manifest
from pumice.prompt.messages import as_messages
from pumice.prompt.placeholders import count_placeholders, insert_pictures
from pumice.prompt.sealed import Span
from pumice.prompt.spans import render_spans
from pumice.prompt.template import ChatTemplate
from pumice.prompt.tokenizer import PromptTokenizer

Prompt: TypeAlias = "str | Sequence[Mapping[str, Any]]"

_MAX_TEXT = 1_000_000
"""Characters of a prompt, where the context is not of that order itself."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prompt as the graphs take it.

    `input_ids` is int64 [1, T] with every picture's tokens in place, of which `image_tokens` take a row of features
    each; `images` are its pictures in order, as pixels, or as features if they were encoded before. `size` (height,
    width) is that of every picture, or None where each has its own.
    """

    input_ids: NDArray[np.int64]
    images: tuple[PromptPicture, ...]
    image_tokens: int
    size: Size | None

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.input_ids.shape[1])

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures that were not given by their features: each float32 [3, height, width], not to be written to."""
        return tuple(image.values for image in self.images if isinstance(image, Pixels))

    @property
    def pixel_values(self) -> NDArray[np.float32]:
        """`pictures` in one array as transformers has them, float32 [N, 3, H, W]; N may be 0.

        H and W are the largest sides; smaller pictures have zeros below and to the right.
        """
        return padded_together(self.pictures, self.size)

    @property
    def image_sizes(self) -> NDArray[np.int64]:
        """(height, width) of each picture in `pixel_values`, int64 [N, 2]."""
        return np.array([picture.shape[1:] for picture in self.pictures], np.int64).reshape(-1, 2)


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A prompt whose pictures are placeholders still; a `raw` one is taken as it stands."""

    spans: list[Span]
    raw: bool


class PromptBuilder:
    """Prepares prompts for one bundle; holds its tokenizer and chat template (None: raw prompts only)."""

    def __init__(self, manifest: Manifest, tokenizer: PromptTokenizer, template: ChatTemplate | None) -> None:
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._template = template
        self._model_key = model_key(manifest)

    def prepare(
        self, prompt: Prompt, images: Sequence[ImageInput | PromptPicture] = (), *, raw: bool = False
    ) -> Prepared:
        """Token ids and pictures of a prompt; what can be checked without the pictures is checked before one is opened.

        Pictures may have been prepared, or encoded, with an earlier prompt.

        Raises:
            PromptError: no chat template, messages of another form, placeholders and pictures that differ in number, …
            ContextLengthError: longer than the model's context.
            ImageError: a picture cannot be read.
            UsageError: features or prepared pictures of another model, or altered ones.
        """
        spec = self._manifest.image
        if spec.size is not None:
            sizes = [spec.size] * len(images)
            self._check_room(len(sizes), self._tokens(sizes))
            ids = self._ids(self._draft(prompt, len(sizes), raw), sizes)
            pictures = tuple(self.pictures(images))
        else:
            draft = self._draft(prompt, len(images), raw)
            pictures = self._varied_pictures(images)
            sizes = [picture.size for picture in pictures]
            ids = self._ids(draft, sizes)
        return Prepared(
            input_ids=np.array([ids], np.int64),
            images=pictures,
            image_tokens=self._features(sizes),
            size=spec.size,
        )

    def pictures(self, images: Iterable[ImageInput | PromptPicture]) -> Iterator[PromptPicture]:
        """Pictures as the vision encoder takes them, one by one; what was prepared already stays as it is.

        Raises:
            ImageError: a picture cannot be read.
            UsageError: features or prepared pictures of another model, or altered ones.
        """
        for image in images:
            if isinstance(image, Pixels | ImageFeatures):
                yield as_given(image, self._manifest, self._model_key)
                continue
            (values,) = preprocess([image], self._manifest.image)
            values.flags.writeable = False
            size = values.shape[1], values.shape[2]
            yield Pixels(
                values=values, digest=picture_digest(values, self._model_key), tokens=self._features([size])
            )

    def _varied_pictures(self, images: Sequence[ImageInput | PromptPicture]) -> tuple[PromptPicture, ...]:
        """The pictures; none is opened once those before it have filled the context."""
        pictures: list[PromptPicture] = []
        tokens = 0
        for picture in self.pictures(images):
            pictures.append(picture)
            tokens += self._tokens([picture.size])
            self._check_room(len(pictures), tokens)
        return tuple(pictures)

    def _check_room(self, pictures: int, tokens: int) -> None:
        context = self._manifest.decoder.context_length
        if tokens > context:
            raise ContextLengthError(
                f"{pictures} pictures of the prompt have {tokens:,} tokens, but the model's context is {context:,}"
            )

    def _tokens(self, sizes: Sequence[Size]) -> int:
        return sum(token_count(self._manifest.image_tokens, size) for size in sizes)

    def _features(self, sizes: Sequence[Size]) -> int:
        return sum(feature_count(self._manifest.image_tokens, size) for size in sizes)

    def _draft(self, prompt: Prompt, pictures: int, raw: bool) -> _Draft:
        """The prompt in spans, with a place for each picture."""
        draft = self._raw_draft(prompt) if raw else self._chat_draft(prompt, pictures)
        self._check_placeholders(count_placeholders(draft.spans, self._manifest.image_tokens), pictures)
        return draft

    def _raw_draft(self, prompt: Prompt) -> _Draft:
        if not isinstance(prompt, str):
            raise PromptError(f"a raw prompt is a string, got {type(prompt).__name__}")
        self._check_texts([prompt])
        return _Draft(spans=[Span(text=prompt, trusted=True)], raw=True)

    def _chat_draft(self, prompt: Prompt, pictures: int) -> _Draft:
        if self._template is None:
            raise PromptError("this bundle has no chat template: pass a prompt of your own with raw=True")
        messages = as_messages(prompt, pictures)
        self._check_texts([text for message in messages for text in message.texts])
        return _Draft(spans=render_spans(self._template, messages, self._tokenizer), raw=False)

    def _ids(self, draft: _Draft, sizes: Sequence[Size]) -> list[int]:
        spans = insert_pictures(draft.spans, self._manifest.image_tokens, sizes)
        if draft.raw:
            ids = self._tokenizer.encode(spans[0].text)
        else:
            bos, first = self._manifest.tokens.bos_token, draft.spans[:1]
            starts_with_bos = bool(bos and first and first[0].trusted and first[0].text.startswith(bos))
            ids = self._tokenizer.encode_spans(spans, add_special_tokens=not starts_with_bos)
        return self._checked(ids, sizes)

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

    def _checked(self, ids: list[int], sizes: Sequence[Size]) -> list[int]:
        """The ids, once it is certain that each picture's features have a place and that all fit the context."""
        found, features = ids.count(self._manifest.image_tokens.token_id), self._features(sizes)
        if found != features:
            raise PromptError(
                f"the prompt has {found} image tokens after tokenisation, but its pictures have {features} features"
            )
        if not ids:
            raise PromptError("the prompt is empty")
        context = self._manifest.decoder.context_length
        if len(ids) > context:
            raise ContextLengthError(
                f"the prompt has {len(ids):,} tokens, but the model's context is {context:,}: shorten it"
            )
        return ids
