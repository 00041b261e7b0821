"""Messages, images and videos become what the graphs take: token ids and pixel values.

Enters: a question, a conversation or a raw prompt, and its images and videos in one list. Leaves: `Prepared`.

    messages ─chat template─▶ text ─whose words are whose─▶ spans ─sealed tokenizer─▶ input_ids  [1, T]
    images ─preprocess────────────────────────────────────────────────────────────▶ images N × [3, H, W]
    (or their features, if they were encoded before)

One image is one `<image>` in the text and many ids in `input_ids` (`images/layout.py`), a video one `<video>`. From
here on a video is an image like others: rows of features at its places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from pumice.errors import ContextLengthError, PromptError
from pumice.images.files import ImageInput
from pumice.images.layout import (
    Layout,
    among,
    common_size,
    feature_count,
    image_text,
    size_of,
    token_count,
)
from pumice.images.prepared import (
    ImageFeatures,
    PreparedImage,
    PromptImage,
    given_among,
    layout_as_given,
    model_key,
    prepare_image,
    prepare_video,
    revalidated,
)
from pumice.images.preprocess import Size
from pumice.images.videos import OpenedVideo, Video, is_video, open_video
from pumice.manifest import Manifest
from pumice.prompt.content_form import ContentForms
from pumice.prompt.ending import Ending
from pumice.prompt.message_images import gathered
from pumice.prompt.messages import Medium, Message, as_messages, question
from pumice.prompt.placeholders import in_places, insert_media, places
from pumice.prompt.prepared import Prepared
from pumice.prompt.sealed import Span
from pumice.prompt.spans import render_spans
from pumice.prompt.template import ChatTemplate
from pumice.prompt.tokenizer import PromptTokenizer

Prompt: TypeAlias = "str | Sequence[Mapping[str, Any] | Message]"
Given: TypeAlias = "ImageInput | PromptImage | Video"
"""An image or a video."""

_MAX_TEXT = 1_000_000
"""Characters of a prompt, where the context is not of that order itself."""


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A prompt whose images are placeholders still; a `raw` one is taken as it stands, also by its `ids`."""

    spans: list[Span]
    raw: bool
    ids: list[int] | None = None


class PromptBuilder:
    """Prepares prompts for one bundle; holds its tokenizer and chat template (None: raw prompts only)."""

    def __init__(self, manifest: Manifest, tokenizer: PromptTokenizer, template: ChatTemplate | None) -> None:
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._template = template
        self._tokens = {Medium.IMAGE: manifest.image_tokens.token}
        if manifest.videos is not None:
            self._tokens[Medium.VIDEO] = manifest.videos.token
        self._forms = (
            None if template is None else ContentForms(template, videos=Medium.VIDEO in self._tokens)
        )
        self._model_key = model_key(manifest)

    def prepare(
        self,
        prompt: Prompt,
        images: Sequence[Given] = (),
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
        ending = Ending.of(prompt, raw, add_generation_prompt, continue_final_message)
        videos = [image for image in images if is_video(image)]
        stills = [image for image in images if not is_video(image)]
        layout = among(self._manifest.layout, alone=len(stills) == 1)
        given = {Medium.IMAGE: len(stills), Medium.VIDEO: len(videos)}
        size = common_size(layout)
        if size is not None and not videos:
            each: list[tuple[Layout, Size]] = [(layout, size)] * len(stills)
            self._check_room(len(each), _tokens(each))
            ids = self._ids(self._draft(prompt, given, raw, ending), each)
            prepared = tuple(self.images(stills))
        else:
            opened = self._opened_videos(videos)
            draft = self._draft(prompt, given, raw, ending)
            prepared = self._varied(draft, stills, opened)
            each = [(layout_as_given(image, self._manifest), image.size) for image in prepared]
            ids = self._ids(draft, each)
        return Prepared(
            input_ids=np.array([ids], np.int64),
            images=prepared,
            image_tokens=_features(each),
            size=size,
        )

    def count(
        self,
        prompt: Prompt,
        sizes: Sequence[Size],
        *,
        raw: bool = False,
        continue_final_message: bool = False,
    ) -> int:
        """Tokens of a prompt, before any of its images is prepared: each is a bare place, and `sizes` are theirs,
        (height, width) upright. Raises as `prepare`."""
        given = {Medium.IMAGE: len(sizes), Medium.VIDEO: 0}
        draft = self._draft(prompt, given, raw, Ending.of(prompt, raw, None, continue_final_message))
        return len(self._ids(draft, self._seen(sizes)))

    def rendered(self, prompt: Prompt, images: int) -> str:
        """The text of a prompt as the chat template writes it, with one token for each image. Raises as `prepare`."""
        given = {Medium.IMAGE: images, Medium.VIDEO: 0}
        draft = self._draft(prompt, given, False, Ending.of(prompt, False, None, False))
        return "".join(span.text for span in draft.spans)

    def count_images(self, sizes: Sequence[Size]) -> int:
        """The same of the images alone."""
        return _tokens(self._seen(sizes))

    def _seen(self, sizes: Sequence[Size]) -> list[tuple[Layout, Size]]:
        layout = among(self._manifest.layout, alone=len(sizes) == 1)
        return [(layout, size_of(layout, size, self._manifest.image)) for size in sizes]

    def images(self, images: Iterable[Given], *, alone: bool = True) -> Iterator[PromptImage]:
        """Images and videos as the vision encoder takes them, one by one; what was prepared already stays as it is.

        An image that is not `alone` may be prepared so that it can be given beside others only.

        Raises:
            ImageError: an image or a video cannot be read.
            UsageError: features or prepared images of another model, or altered ones; or a video for one of images.
        """
        for image in images:
            if isinstance(image, PreparedImage | ImageFeatures):
                yield revalidated(image, self._manifest, self._model_key)
            elif isinstance(image, Video):
                (opened,) = self._opened_videos([image])
                assert isinstance(opened, OpenedVideo)
                yield prepare_video(opened, self._manifest, self._model_key)
            else:
                yield prepare_image(image, self._manifest, self._model_key, alone=alone)

    def _opened_videos(self, videos: Sequence[Any]) -> list[OpenedVideo | PromptImage]:
        """Videos whose frames are counted, and not decoded; all together fit the context."""
        opened: list[OpenedVideo | PromptImage] = []
        tokens = 0
        for video in videos:
            self._manifest.clip(1)
            found = open_video(video) if isinstance(video, Video) else video
            frames = found.count if isinstance(found, OpenedVideo) else found.frames
            opened.append(found)
            tokens += self._manifest.clip(frames or 0).tokens
            self._check_room(len(opened), tokens, "video")
        return opened

    def _varied(
        self, draft: _Draft, stills: Sequence[Given], videos: Sequence[Any]
    ) -> tuple[PromptImage, ...]:
        """The images and videos of a prompt; none is opened once those before it have filled the context."""
        prepared: list[PromptImage] = []
        tokens, alone = 0, len(stills) == 1
        for given in in_places(
            places(draft.spans, self._tokens), {Medium.IMAGE: stills, Medium.VIDEO: videos}
        ):
            if isinstance(given, OpenedVideo):
                image: PromptImage = prepare_video(given, self._manifest, self._model_key)
            else:
                if isinstance(given, PreparedImage | ImageFeatures):
                    given = given_among(given, self._manifest, alone=alone)
                (image,) = self.images([given], alone=alone)
            prepared.append(image)
            tokens += _tokens([(layout_as_given(image, self._manifest), image.size)])
            self._check_room(len(prepared), tokens)
        return tuple(prepared)

    def _check_room(self, images: int, tokens: int, what: str = "image") -> None:
        context = self._manifest.decoder.context_length
        if tokens > context:
            raise ContextLengthError(
                f"{images} {what}s of the prompt have {tokens:,} tokens, but the model's context is {context:,}"
            )

    def question(self, text: str, images: int, videos: int = 0) -> Message:
        """A question about images and videos, as `prepare` takes a plain one: the last of several messages, say.

        Raises:
            PromptError: the token of an image or video is written in it, but not once for each.
        """
        return question(text, {Medium.IMAGE: images, Medium.VIDEO: videos}, self._tokens)

    def messages(self, prompt: Prompt, images: int, videos: int = 0) -> list[dict[str, Any]]:
        """A prompt's messages in the form in which this bundle's chat template takes them, checked as by `prepare`."""
        given = {Medium.IMAGE: images, Medium.VIDEO: videos}
        return [message.as_dict(tokens=self._tokens) for message in self._messages(prompt, given)]

    def _messages(self, prompt: Prompt, given: Mapping[Medium, int]) -> list[Message]:
        if self._forms is None:
            raise PromptError("this bundle has no chat template: pass a prompt of your own with raw=True")
        messages = as_messages(prompt, given, self._tokens)
        self._check_texts([text for message in messages for text in message.texts])
        return self._forms.adapted(messages)

    def _draft(self, prompt: Prompt, given: Mapping[Medium, int], raw: bool, ending: Ending) -> _Draft:
        """The prompt in spans, with a place for each image and video."""
        draft = self._raw_draft(prompt) if raw else self._chat_draft(prompt, given, ending)
        found = places(draft.spans, self._tokens)
        for medium, token in self._tokens.items():
            _check_placeholders(found.count(medium), given[medium], medium, token)
        return draft

    def _raw_draft(self, prompt: object) -> _Draft:
        if isinstance(prompt, str):
            self._check_texts([prompt])
            return _Draft(spans=[Span(text=prompt, trusted=True)], raw=True)
        if isinstance(prompt, list) and all(type(one) is int and one >= 0 for one in prompt):
            return _Draft(spans=[], raw=True, ids=prompt)
        raise PromptError(f"a raw prompt is a string or a list of token ids, got {type(prompt).__name__}")

    def _chat_draft(self, prompt: Prompt, given: Mapping[Medium, int], ending: Ending) -> _Draft:
        messages = self._messages(prompt, given)
        assert self._template is not None
        spans = render_spans(
            self._template,
            messages,
            self._tokenizer,
            tokens=self._tokens,
            add_generation_prompt=ending.add_generation_prompt,
            continue_final_message=ending.continue_final_message,
        )
        return _Draft(spans=spans, raw=False)

    def _ids(self, draft: _Draft, each: Sequence[tuple[Layout, Size]]) -> list[int]:
        """The ids, with as many of each image and video as their layouts and sizes say, which are in order."""
        tokens = [self._tokens[medium] for medium in places(draft.spans, self._tokens)]
        texts = [image_text(layout, token, size) for token, (layout, size) in zip(tokens, each, strict=True)]
        spans = insert_media(draft.spans, self._tokens, texts)
        if draft.ids is not None:
            ids = list(draft.ids)
        elif draft.raw:
            ids = self._tokenizer.encode(spans[0].text)
        else:
            bos, first = self._manifest.tokens.bos_token, draft.spans[:1]
            starts_with_bos = bool(bos and first and first[0].trusted and first[0].text.startswith(bos))
            ids = self._tokenizer.encode_spans(spans, add_special_tokens=not starts_with_bos)
        return self._checked(ids, each)

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

    def _checked(self, ids: list[int], each: Sequence[tuple[Layout, Size]]) -> list[int]:
        """The ids, once it is certain that each image's features have a place and that all fit the context."""
        features = _features(each)
        found = sum(ids.count(number) for number in self._manifest.feature_token_ids)
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


def _check_placeholders(found: int, given: int, medium: Medium, token: str) -> None:
    if found != given:
        name = medium.value
        raise PromptError(
            f"the prompt has {found} {token} {'placeholder' if found == 1 else 'placeholders'}, "
            f"but {given} {f'{name} was' if given == 1 else f'{name}s were'} given: "
            "they must be equal in number"
        )


def _tokens(each: Sequence[tuple[Layout, Size]]) -> int:
    """All tokens of images of these layouts and sizes."""
    return sum(token_count(layout, size) for layout, size in each)


def _features(each: Sequence[tuple[Layout, Size]]) -> int:
    """Rows of features of images of these layouts and sizes."""
    return sum(feature_count(layout, size) for layout, size in each)
