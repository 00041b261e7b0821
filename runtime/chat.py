"""A conversation: turns are remembered, and a prefix that is in the KV cache is not prefilled again.

Every turn renders the whole conversation and compares its tokens and images with those in the cache. The cache is
rewound to where they part, usually the end, and only the rest is prefilled:

    cache   <s> USER: … ASSISTANT: A cat.
    prompt  <s> USER: … ASSISTANT: A cat. USER: What colour? ASSISTANT:
                                          └─ prefill ──────────────────┘
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, Unpack

from pumice.decoder.kv_cache import KVCache
from pumice.errors import UsageError
from pumice.generation.options import GenerationArguments
from pumice.images.files import ImageInput
from pumice.images.prepared import PromptImage
from pumice.images.videos import Video, VideoInput, is_video, media_list
from pumice.pipeline import Pipeline
from pumice.prompt.conversation import apart, image_count, message_text
from pumice.prompt.message_images import gathered
from pumice.result import Generation
from pumice.scheduler.request import Request
from pumice.stream import TextStream, asked_twice

Content: TypeAlias = "str | Sequence[Mapping[str, Any]]"
"""What is said: text, or parts of a message, of which some may be images."""
Images: TypeAlias = "Sequence[ImageInput | PromptImage] | ImageInput | PromptImage | None"
Videos: TypeAlias = "Sequence[VideoInput | PromptImage] | VideoInput | PromptImage | None"


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """A question with its images and videos, and the answer to it; in `content` there is a bare place for each."""

    content: Content
    images: tuple[PromptImage, ...]
    answer: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turn in the Hugging Face form."""
        return [
            _question(self.content, self.images),
            {"role": "assistant", "content": [{"type": "text", "text": self.answer}]},
        ]


class Chat:
    """A conversation with a model; made by `Model.chat`.

    It takes one question at a time: threads may take turns, but one that asks, rewinds or edits while another is being
    answered gets a `UsageError`. `reset` may come from any thread, and `messages` may be read by any.

    A turn that fails (an unreadable image, a full context) leaves the conversation as it was.
    """

    def __reduce__(self) -> NoReturn:
        raise UsageError("a chat cannot be pickled or copied: its model is of one process")

    def __init__(self, pipeline: Pipeline, *, system: str | None, options: Mapping[str, Any]) -> None:
        pipeline.options(options)  # wrong ones are told now
        self.pipeline, self._options = pipeline, dict(options)
        self._system = _system_messages(system)
        self._stream: TextStream | None = None
        self._asking = threading.Lock()
        self._remembering = threading.Lock()
        self._conversation = 0  # counts those that were begun
        self.reset()

    def reset(self) -> None:
        """Forget all turns; an answer under way is cancelled."""
        if self._stream is not None:
            self._stream.cancel()
        cache = self.pipeline.decoder.new_cache(1)
        with self._remembering:
            self._conversation += 1
            self._turns: tuple[_Turn, ...] = ()
            self._cache: KVCache = cache

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The conversation so far, in the Hugging Face form."""
        return (*self._system, *(message for turn in self._turns for message in turn.messages))

    @property
    def images(self) -> tuple[PromptImage, ...]:
        """The conversation's images and videos as they were prepared, in the order of their places in `messages`."""
        return tuple(image for turn in self._turns for image in turn.images)

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of every turn, by name.

        Set to others, they hold from the next turn on; UsageError where they cannot, and then nothing is changed.
        """
        return dict(self._options)

    @options.setter
    def options(self, options: Mapping[str, Any]) -> None:
        self.pipeline.options(options)
        self._options = dict(options)

    @property
    def system(self) -> str | None:
        """The system prompt.

        Set to another, it holds from the beginning of the conversation: the turns stay, and are read again with the
        next question. PromptError where the chat template cannot have it, and then nothing is changed.
        """
        text: str | None = self._system[0]["content"][0]["text"] if self._system else None
        return text

    @system.setter
    def system(self, text: str | None) -> None:
        with self._alone():
            messages = _system_messages(text)
            spoken = [message for turn in self._turns for message in turn.messages]
            self.pipeline.builder.prepare(
                [*messages, *spoken[:-1]] if spoken else [*messages, _question("", ())], self.images
            )
            self._system = messages

    def restore(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[ImageInput | PromptImage | Video]
    ) -> None:
        """Another conversation in place of this one: `messages` as the property gives them, with all their images.

        The system prompt is theirs, or none. On a failure nothing is changed.

        Raises:
            PromptError: messages that are no questions with their answers, or that the chat template cannot have.
            ContextLengthError: more than the model's context.
            ImageError: an image cannot be read.
        """
        with self._alone():
            system, spoken = apart(messages)
            prepared = tuple(self.pipeline.builder.images(images))
            turns, used = [], 0
            for question, answer in zip(spoken[::2], spoken[1::2], strict=True):
                count = image_count(question)
                own = prepared[used : used + count]
                turns.append(_Turn(content=message_text(question), images=own, answer=message_text(answer)))
                used += count
            if turns or system is not None:
                before = [message for turn in turns for message in turn.messages][:-1] or [_question("", ())]
                self.pipeline.builder.prepare([*_system_messages(system), *before], prepared)
            self._system, self._turns = _system_messages(system), tuple(turns)

    def send(
        self,
        text: Content,
        images: Images = None,
        *,
        videos: Videos = None,
        **options: Unpack[GenerationArguments],
    ) -> Generation:
        """Say something, with images and videos or without; returns the answer.

        `text` may also be the parts of a message, images among them; `images` and `videos` take the bare places.
        Raises as `Model.generate` and `stream`.
        """
        with self._alone():
            return _whole(self._ask(self._turns, text, media_list(images, videos), options))

    def stream(
        self,
        text: Content,
        images: Images = None,
        *,
        videos: Videos = None,
        **options: Unpack[GenerationArguments],
    ) -> TextStream:
        """Say something; returns the answer's stream.

        The turn is part of the conversation once the stream has ended, or was cancelled: then with the words given so
        far, if any. An answer still under way is cancelled first.

        Raises:
            UsageError: another thread is being answered.
        """
        with self._alone():
            return self._ask(self._turns, text, media_list(images, videos), options)

    def regenerate(self, **options: Unpack[GenerationArguments]) -> Generation:
        """Answer the last question again; its earlier answer is forgotten. Raises as `rewind` and `send`."""
        with self._alone():
            return _whole(self._ask_again(options))

    def stream_again(self, **options: Unpack[GenerationArguments]) -> TextStream:
        """Answer the last question again; returns the answer's stream. Raises as `rewind`."""
        with self._alone():
            return self._ask_again(options)

    def edit(
        self,
        turn: int,
        text: Content,
        images: Images = None,
        *,
        videos: Videos = None,
        **options: Unpack[GenerationArguments],
    ) -> Generation:
        """Say something else in a turn, 0 the first and -1 the last; it and those after it are forgotten.

        `images` and `videos` are the turn's from now on; None of both keeps those that it had. Raises as `rewind` and
        `send`.
        """
        with self._alone():
            turns = self._turns
            index = _index(turn, turns)
            kept = images is None and videos is None
            prepared = turns[index].images if kept else media_list(images, videos)
            return _whole(self._ask(turns[:index], text, prepared, options))

    def rewind(self, turn: int) -> None:
        """Forget a turn, 0 the first and -1 the last, and those after it.

        Raises:
            UsageError: there is no such turn.
        """
        with self._alone(), self._remembering:
            self._turns = self._turns[: _index(turn, self._turns)]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within, no other thread asks; an answer that nobody works on is cancelled.

        Raises:
            UsageError: another thread asks, or works on an answer.
        """
        if not self._asking.acquire(blocking=False):
            raise asked_twice()
        try:
            if self._stream is not None:
                self._stream.replace()
            yield
        finally:
            self._asking.release()

    def _ask_again(self, options: Mapping[str, Any]) -> TextStream:
        """The stream of another answer to the last question."""
        turns = self._turns
        turn = turns[_index(-1, turns)]
        return self._ask(turns[:-1], turn.content, turn.images, options)

    def _ask(
        self, before: Sequence[_Turn], text: Content, images: Sequence[Any], options: Mapping[str, Any]
    ) -> TextStream:
        """The stream of an answer to a question that follows some turns."""
        started, pipeline, conversation = time.perf_counter(), self.pipeline, self._conversation
        if not isinstance(text, str):
            (taken,), images = gathered([_question(text, images)], images)
            text = taken["content"]
        earlier = [image for turn in before for image in turn.images]
        messages: list[Any] = [*self._system]
        for turn in before:
            messages += [self._asked(turn.content, turn.images), turn.messages[1]]
        request = pipeline.request(
            [*messages, self._asked(text, images)],
            [*earlier, *images],
            pipeline.options({**self._options, **options}),
            started=started,
        )
        prepared = tuple(request.features.images[len(earlier) :])

        def remember(_: Request, answer: Generation) -> None:
            if not answer.token_ids:
                return
            turn = _Turn(content=text, images=prepared, answer=answer.text.strip())
            with self._remembering:
                if self._conversation == conversation:  # `reset` may have come meanwhile
                    self._turns = (*before, turn)

        scheduler = pipeline.scheduler(self._roomy_cache(request))
        self._stream = TextStream(scheduler, request, on_end=remember)
        return self._stream

    def _asked(self, content: Content, images: Sequence[Any]) -> Any:
        """A question as the prompt takes it: an image's token that is written in plain text is its place."""
        if isinstance(content, str):
            videos = sum(map(is_video, images))
            return self.pipeline.builder.question(content, len(images) - videos, videos)
        return _question(content, images)

    def _roomy_cache(self, request: Request) -> KVCache:
        """The conversation's cache with room for a request; with more slots than it had, it begins anew."""
        if request.strategy.rows > self._cache.slots:
            self._cache = self.pipeline.decoder.new_cache(request.capacity, request.strategy.rows)
        self._cache.reserve(request.capacity)
        return self._cache


def _index(turn: int, turns: Sequence[_Turn]) -> int:
    """A turn's index from the first."""
    if not -len(turns) <= turn < len(turns):
        raise UsageError(f"there is no turn {turn}: the conversation has {len(turns)}")
    return turn % len(turns)


def _question(text: Content, images: Sequence[Any]) -> dict[str, Any]:
    if not isinstance(text, str):
        return {"role": "user", "content": text}
    media = [{"type": "video" if is_video(image) else "image"} for image in images]
    return {"role": "user", "content": [*media, {"type": "text", "text": text}]}


def _system_messages(text: str | None) -> list[dict[str, Any]]:
    return [] if text is None else [{"role": "system", "content": [{"type": "text", "text": text}]}]


def _whole(stream: TextStream) -> Generation:
    with stream:
        for _ in stream:
            pass
    return stream.result
