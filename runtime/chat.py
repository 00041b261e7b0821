"""A conversation: turns are remembered, and a prefix that is in the KV cache is not prefilled again.

Every turn renders the whole conversation and compares its tokens and images with those in the cache. The cache is
rewound to where they part, usually the end, and only the rest is prefilled:

    cache   <s> USER: … ASSISTANT: A cat.
    prompt  <s> USER: … ASSISTANT: A cat. USER: What colour? ASSISTANT:
                                          └─ prefill ──────────────────┘
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, Unpack

from pumice.decoder.kv_cache import KVCache
from pumice.errors import UsageError
from pumice.generation.options import GenerationArguments
from pumice.images.files import ImageInput, image_list
from pumice.images.prepared import ImageFeatures, PromptImage
from pumice.pipeline import Pipeline
from pumice.result import Generation
from pumice.scheduler.request import Request
from pumice.stream import TextStream

Images: TypeAlias = "Sequence[ImageInput | ImageFeatures] | ImageInput | ImageFeatures | None"


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """A question with its images, and the answer to it."""

    text: str
    images: tuple[PromptImage, ...]
    answer: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turn in the Hugging Face form."""
        return [
            _question(self.text, len(self.images)),
            {"role": "assistant", "content": [{"type": "text", "text": self.answer}]},
        ]


class Chat:
    """A conversation with a model; made by `Model.chat`. Not for several threads at once.

    A turn that fails (an unreadable image, a full context) leaves the conversation as it was.
    """

    def __reduce__(self) -> NoReturn:
        raise UsageError("a chat cannot be pickled or copied: its model is of one process")

    def __init__(self, pipeline: Pipeline, *, system: str | None, options: Mapping[str, Any]) -> None:
        pipeline.options(options)  # wrong ones are told now
        self.pipeline, self._options = pipeline, dict(options)
        self._system = (
            [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
        )
        self._stream: TextStream | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all turns; an answer under way is cancelled."""
        self._cancel()
        self._turns: tuple[_Turn, ...] = ()
        self._cache: KVCache = self.pipeline.decoder.new_cache(1)

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The conversation so far, in the Hugging Face form."""
        return (*self._system, *(message for turn in self._turns for message in turn.messages))

    def send(self, text: str, images: Images = None, **options: Unpack[GenerationArguments]) -> Generation:
        """Say something, with images or without; returns the answer. Raises as `Model.generate`."""
        return _whole(self.stream(text, images, **options))

    def stream(self, text: str, images: Images = None, **options: Unpack[GenerationArguments]) -> TextStream:
        """Say something; returns the answer's stream.

        The turn is part of the conversation once the stream has ended, or was cancelled: then with the words given so
        far, if any. An answer still under way is cancelled first.
        """
        self._cancel()
        return self._ask(self._turns, text, image_list(images), options)

    def regenerate(self, **options: Unpack[GenerationArguments]) -> Generation:
        """Answer the last question again; its earlier answer is forgotten. Raises as `rewind` and `send`."""
        return _whole(self.stream_again(**options))

    def stream_again(self, **options: Unpack[GenerationArguments]) -> TextStream:
        """Answer the last question again; returns the answer's stream. Raises as `rewind`."""
        self._cancel()
        turn = self._turns[self._checked(-1)]
        return self._ask(self._turns[:-1], turn.text, turn.images, options)

    def edit(
        self, turn: int, text: str, images: Images = None, **options: Unpack[GenerationArguments]
    ) -> Generation:
        """Say something else in a turn, 0 the first and -1 the last; it and those after it are forgotten.

        `images` are the turn's images from now on; None keeps those that it had. Raises as `rewind` and `send`.
        """
        self._cancel()
        index = self._checked(turn)
        prepared = self._turns[index].images if images is None else image_list(images)
        return _whole(self._ask(self._turns[:index], text, prepared, options))

    def rewind(self, turn: int) -> None:
        """Forget a turn, 0 the first and -1 the last, and those after it.

        Raises:
            UsageError: there is no such turn.
        """
        self._cancel()
        self._turns = self._turns[: self._checked(turn)]

    def _checked(self, turn: int) -> int:
        """The turn's index from the first."""
        turns = len(self._turns)
        if not -turns <= turn < turns:
            raise UsageError(f"there is no turn {turn}: the conversation has {turns}")
        return turn % turns

    def _cancel(self) -> None:
        if self._stream is not None:
            self._stream.cancel()

    def _ask(
        self, before: Sequence[_Turn], text: str, images: Sequence[Any], options: Mapping[str, Any]
    ) -> TextStream:
        """The stream of an answer to a question that follows some turns."""
        started, pipeline = time.perf_counter(), self.pipeline
        earlier = [image for turn in before for image in turn.images]
        messages = [*self._system, *(message for turn in before for message in turn.messages)]
        request = pipeline.request(
            [*messages, _question(text, len(images))],
            [*earlier, *images],
            pipeline.options({**self._options, **options}),
            started=started,
        )
        prepared = tuple(request.features.images[len(earlier) :])

        def remember(_: Request, answer: Generation) -> None:
            if answer.token_ids:
                turn = _Turn(text=text, images=prepared, answer=answer.text.strip())
                self._turns = (*before, turn)

        scheduler = pipeline.scheduler(self._roomy_cache(request))
        self._stream = TextStream(scheduler, request, on_end=remember)
        return self._stream

    def _roomy_cache(self, request: Request) -> KVCache:
        """The conversation's cache with room for a request; with more slots than it had, it begins anew."""
        if request.strategy.rows > self._cache.slots:
            self._cache = self.pipeline.decoder.new_cache(request.capacity, request.strategy.rows)
        self._cache.reserve(request.capacity)
        return self._cache


def _question(text: str, images: int) -> dict[str, Any]:
    return {"role": "user", "content": [*[{"type": "image"}] * images, {"type": "text", "text": text}]}


def _whole(stream: TextStream) -> Generation:
    with stream:
        for _ in stream:
            pass
    return stream.result
