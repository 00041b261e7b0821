"""Messages and images become what the graphs take: token ids and pixel values.

Enters: a question, a conversation or a raw prompt, and its images. Leaves: `Prepared`.

    messages ─chat template─▶ text ─whose words are whose─▶ spans ─sealed tokenizer─▶ input_ids  [1, T]
    images ─preprocess────────────────────────────────────────────────────────────▶ images N × [3, H, W]
    (or their features, if they were encoded before)

One image is one `<image>` in the text and many ids in `input_ids` (`images/layout.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pumice.errors import ContextLengthError, PromptError, UsageError
from pumice.images.files import ImageInput
from pumice.images.layout import among, common_size, feature_count, size_of, token_count
from pumice.images.prepared import (
    ImageFeatures,
    PreparedImage,
    PromptImage,
    given_among,
    model_key,
    prepare_image,
    revalidated,
)
from pumice.images.preprocess import Pixels, Size, padded_together
from pumice.manifest import ImageLayout, Manifest
from pumice.prompt.content_form import ContentForms
from pumice.prompt.message_images import gathered
from pumice.prompt.messages import Message, as_messages, question
from pumice.prompt.placeholders import count_placeholders, insert_images
from pumice.prompt.sealed import Span
from pumice.prompt.spans import render_spans
from pumice.prompt.template import ChatTemplate
from pumice.prompt.tokenizer import PromptTokenizer

Prompt: TypeAlias = "str | Sequence[Mapping[str, Any] | Message]"

_MAX_TEXT = 1_000_000
"""Characters of a prompt, where the context is not of that order itself."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prompt as the graphs take it.

    `input_ids` is int64 [1, T] with every image's tokens in place, of which `image_tokens` take a row of features
    each; `images` are its images in order, as pixels, or as features if they were encoded before. `size` (height,
    width) is that of every image, or None where each has its own.
    """

    input_ids: NDArray[np.int64]
    images: tuple[PromptImage, ...]
    image_tokens: int
    size: Size | None

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.input_ids.shape[1])

    @property
    def pixel_arrays(self) -> tuple[Pixels, ...]:
        """The images that were not given by their features, not to be written to: each float32 [3, height, width].

        Where images are cut into tiles, [1 + tiles, 3, height, width].
        """
        return tuple(image.values for image in self.images if isinstance(image, PreparedImage))

    @property
    def pictures(self) -> tuple[Pixels, ...]:
        """`pixel_arrays` by its earlier name."""
        return self.pixel_arrays

    @property
    def pixel_values(self) -> NDArray[np.float32]:
        """`pixel_arrays` in one array as transformers has them, float32 [N, 3, H, W]; N may be 0.

        H and W are the largest sides; smaller images have zeros below and to the right. Where images are cut into
        tiles it is [N, 1 + tiles, 3, H, W], with tiles of zeros behind those of an image that has fewer.
        """
        return padded_together(self.pixel_arrays, self.size)

    @property
    def image_sizes(self) -> NDArray[np.int64]:
        """(height, width) of each image in `pixel_values`, int64 [N, 2]; with tiles, its own."""
        sizes = [image.size for image in self.images if isinstance(image, PreparedImage)]
        return np.array(sizes, np.int64).reshape(-1, 2)


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A prompt whose images are placeholders still; a `raw` one is taken as it stands."""

    spans: list[Span]
    raw: bool


@dataclass(frozen=True, kw_only=True)
class _Ending:
    """How a rendered prompt ends: with the beginning of an answer, or with the last message's own words."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False

    @classmethod
    def of(cls, prompt: Prompt, raw: bool, add: bool | None, go_on: bool) -> _Ending:
        """As asked for; the beginning of an answer is added unless the last message goes on."""
        if raw and (go_on or add):
            raise UsageError(
                "a raw prompt is taken as it stands: nothing is added to it, and it is continued anyway"
            )
        if go_on and add:
            raise UsageError(
                "continue_final_message and add_generation_prompt contradict each other: either the last message goes "
                "on, or an answer to it begins"
            )
        if go_on and isinstance(prompt, str):
            raise UsageError(
                "continue_final_message is for messages [{'role', 'content'}], the last of which goes on: "
                "got a question"
            )
        return cls(add_generation_prompt=not go_on if add is None else add, continue_final_message=go_on)


class PromptBuilder:
    """Prepares prompts for one bundle; holds its tokenizer and chat template (None: raw prompts only)."""

    def __init__(self, manifest: Manifest, tokenizer: PromptTokenizer, template: ChatTemplate | None) -> None:
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._template = template
        self._forms = None if template is None else ContentForms(template)
        self._model_key = model_key(manifest)

    def prepare(
        self,
        prompt: Prompt,
        images: Sequence[ImageInput | PromptImage] = (),
        *,
        raw: bool = False,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
    ) -> Prepared:
        """Token ids and images of a prompt; what can be checked without the images is checked before one is opened.

        Images stand inside the messages, or beside them (`message_images.py`); they may have been prepared, or encoded,
        with an earlier prompt.

        Raises:
            PromptError: no chat template, messages of another form, placeholders and images that differ in number, …
            ContextLengthError: longer than the model's context.
            ImageError: an image cannot be read.
            UsageError: features or prepared images of another model, or altered ones; endings that contradict.
        """
        if not raw:
            prompt, images = gathered(prompt, images)
        ending = _Ending.of(prompt, raw, add_generation_prompt, continue_final_message)
        layout = among(self._manifest.layout, alone=len(images) == 1)
        size = common_size(layout)
        if size is not None:
            sizes = [size] * len(images)
            self._check_room(len(sizes), _tokens(layout, sizes))
            ids = self._ids(self._draft(prompt, len(sizes), raw, ending), layout, sizes)
            prepared = tuple(self.images(images))
        else:
            draft = self._draft(prompt, len(images), raw, ending)
            prepared = self._varied_images(layout, images)
            sizes = [image.size for image in prepared]
            ids = self._ids(draft, layout, sizes)
        return Prepared(
            input_ids=np.array([ids], np.int64),
            images=prepared,
            image_tokens=_features(layout, sizes),
            size=size,
        )

    def count(self, prompt: Prompt, sizes: Sequence[Size], *, continue_final_message: bool = False) -> int:
        """Tokens of a prompt, before any of its images is prepared: each is a bare place, and `sizes` are theirs,
        (height, width) upright. Raises as `prepare`."""
        layout = among(self._manifest.layout, alone=len(sizes) == 1)
        ending = _Ending.of(prompt, False, None, continue_final_message)
        seen = [size_of(layout, size, self._manifest.image) for size in sizes]
        return len(self._ids(self._draft(prompt, len(sizes), False, ending), layout, seen))

    def count_images(self, sizes: Sequence[Size]) -> int:
        """The same of the images alone."""
        layout = among(self._manifest.layout, alone=len(sizes) == 1)
        return _tokens(layout, [size_of(layout, size, self._manifest.image) for size in sizes])

    def images(
        self, images: Iterable[ImageInput | PromptImage], *, alone: bool = True
    ) -> Iterator[PromptImage]:
        """Images as the vision encoder takes them, one by one; what was prepared already stays as it is.

        An image that is not `alone` may be prepared so that it can be given beside others only.

        Raises:
            ImageError: an image cannot be read.
            UsageError: features or prepared images of another model, or altered ones.
        """
        for image in images:
            if isinstance(image, PreparedImage | ImageFeatures):
                yield revalidated(image, self._manifest, self._model_key)
            else:
                yield prepare_image(image, self._manifest, self._model_key, alone=alone)

    def _varied_images(
        self, layout: ImageLayout, images: Sequence[ImageInput | PromptImage]
    ) -> tuple[PromptImage, ...]:
        """The images of a prompt; none is opened once those before it have filled the context."""
        prepared: list[PromptImage] = []
        tokens, alone = 0, len(images) == 1
        given = (
            given_among(image, self._manifest, alone=alone)
            if isinstance(image, PreparedImage | ImageFeatures)
            else image
            for image in images
        )
        for image in self.images(given, alone=alone):
            prepared.append(image)
            tokens += _tokens(layout, [image.size])
            self._check_room(len(prepared), tokens)
        return tuple(prepared)

    def _check_room(self, images: int, tokens: int) -> None:
        context = self._manifest.decoder.context_length
        if tokens > context:
            raise ContextLengthError(
                f"{images} images of the prompt have {tokens:,} tokens, but the model's context is {context:,}"
            )

    def question(self, text: str, images: int) -> Message:
        """A question about images, as `prepare` takes a plain one: the last of several messages, for example.

        Raises:
            PromptError: the image's token is written in it, but not once for each image.
        """
        return question(text, images, self._manifest.image_tokens.token)

    def messages(self, prompt: Prompt, images: int) -> list[dict[str, Any]]:
        """A prompt's messages in the form in which this bundle's chat template takes them, checked as by `prepare`."""
        token = self._manifest.image_tokens.token
        return [message.as_dict(image_token=token) for message in self._messages(prompt, images)]

    def _messages(self, prompt: Prompt, images: int) -> list[Message]:
        if self._forms is None:
            raise PromptError("this bundle has no chat template: pass a prompt of your own with raw=True")
        messages = as_messages(prompt, images, self._manifest.image_tokens.token)
        self._check_texts([text for message in messages for text in message.texts])
        return self._forms.adapted(messages)

    def _draft(self, prompt: Prompt, images: int, raw: bool, ending: _Ending) -> _Draft:
        """The prompt in spans, with a place for each image."""
        draft = self._raw_draft(prompt) if raw else self._chat_draft(prompt, images, ending)
        self._check_placeholders(count_placeholders(draft.spans, self._manifest.image_tokens.token), images)
        return draft

    def _raw_draft(self, prompt: Prompt) -> _Draft:
        if not isinstance(prompt, str):
            raise PromptError(f"a raw prompt is a string, got {type(prompt).__name__}")
        self._check_texts([prompt])
        return _Draft(spans=[Span(text=prompt, trusted=True)], raw=True)

    def _chat_draft(self, prompt: Prompt, images: int, ending: _Ending) -> _Draft:
        messages = self._messages(prompt, images)
        assert self._template is not None
        spans = render_spans(
            self._template,
            messages,
            self._tokenizer,
            image_token=self._manifest.image_tokens.token,
            add_generation_prompt=ending.add_generation_prompt,
            continue_final_message=ending.continue_final_message,
        )
        return _Draft(spans=spans, raw=False)

    def _ids(self, draft: _Draft, layout: ImageLayout, sizes: Sequence[Size]) -> list[int]:
        spans = insert_images(draft.spans, self._manifest.image_tokens.token, layout, sizes)
        if draft.raw:
            ids = self._tokenizer.encode(spans[0].text)
        else:
            bos, first = self._manifest.tokens.bos_token, draft.spans[:1]
            starts_with_bos = bool(bos and first and first[0].trusted and first[0].text.startswith(bos))
            ids = self._tokenizer.encode_spans(spans, add_special_tokens=not starts_with_bos)
        return self._checked(ids, _features(layout, sizes))

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

    def _check_placeholders(self, placeholders: int, images: int) -> None:
        if placeholders != images:
            token = self._manifest.image_tokens.token
            raise PromptError(
                f"the prompt has {placeholders} {token} {'placeholder' if placeholders == 1 else 'placeholders'}, "
                f"but {images} {'image was' if images == 1 else 'images were'} given: "
                "they must be equal in number"
            )

    def _checked(self, ids: list[int], features: int) -> list[int]:
        """The ids, once it is certain that each image's features have a place and that all fit the context."""
        found = ids.count(self._manifest.image_tokens.token_id)
        if found != features:
            raise PromptError(
                f"the prompt has {found} image tokens after tokenisation, but its images have {features} features"
            )
        if not ids:
            raise PromptError("the prompt is empty")
        rows, highest = self._manifest.decoder.vocab_size, max(ids)
        if highest >= rows:
            raise PromptError(
                f"the prompt has {self._tokenizer.token_text(highest)!r}, token {highest}, of which the model knows "
                f"nothing: its table has ids 0 to {rows - 1}"
            )
        context = self._manifest.decoder.context_length
        if len(ids) > context:
            raise ContextLengthError(
                f"the prompt has {len(ids):,} tokens, but the model's context is {context:,}: shorten it"
            )
        return ids


def _tokens(layout: ImageLayout, sizes: Sequence[Size]) -> int:
    """All tokens of images of these sizes."""
    return sum(token_count(layout, size) for size in sizes)


def _features(layout: ImageLayout, sizes: Sequence[Size]) -> int:
    """Rows of features of images of these sizes."""
    return sum(feature_count(layout, size) for size in sizes)
