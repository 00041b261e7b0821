"""A conversation under way: the chat, the images that wait for the next question, settings, figures.

Enters: questions, paths, settings. Leaves: streams of answers. Whatever fails leaves everything as it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pumice.chat import Chat
from pumice.cli.conversation.attached import AttachedImage, attached
from pumice.cli.conversation.figures import Figures, figures_of
from pumice.cli.conversation.settings import asked_for, said
from pumice.errors import ContextLengthError, UsageError
from pumice.images.prepared import PromptImage
from pumice.stream import TextStream

_SEEDS = 2**64


class Conversation:
    """What commands work on.

    `waiting` are the images of the next question; `figures` are of all answers and `last` of the last one; `ended` is
    True once the person leaves.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.waiting: list[AttachedImage] = []
        self.figures, self.last = Figures(), Figures()
        self.ended = False
        self._known: list[AttachedImage] = []
        self._retries = 0

    @property
    def given(self) -> dict[str, Any]:
        """The settings that the person gave, by flag or within the conversation."""
        return said(self.chat.options)

    @property
    def questions(self) -> int:
        """Questions of the conversation so far."""
        return sum(message["role"] == "user" for message in self.chat.messages)

    def look_at(self, paths: Sequence[str]) -> list[AttachedImage]:
        """Images of files, all of them or none; they do not wait yet.

        Raises:
            ImageError: one cannot be read.
            ContextLengthError: with those that are there they would fill the model's context.
        """
        builder = self.chat.pipeline.builder
        images = [attached(path, builder) for path in paths]
        there = [*self.chat.images, *(image.prepared for image in (*self.waiting, *images))]
        tokens, context = (
            sum(image.tokens for image in there),
            self.chat.pipeline.manifest.decoder.context_length,
        )
        if tokens >= context:
            raise ContextLengthError(
                f"with those of the conversation the images would have {tokens:,} tokens, and the model's context "
                f"has {context:,}: nothing was added; /drop, /undo and /reset make room"
            )
        return images

    def remember(self, images: Sequence[AttachedImage]) -> None:
        """Images of the conversation, whose names and files are asked for later."""
        self._known.extend(images)

    def of_turns(self) -> Iterator[tuple[int, AttachedImage | None]]:
        """The images of the conversation, each with the number of its question, 1 the first."""
        prepared, question = iter(self.chat.images), 0
        for message in self.chat.messages:
            if message["role"] != "user":
                continue
            question += 1
            for part in message["content"]:
                if part["type"] == "image":
                    yield question, self._known_as(next(prepared))

    @contextmanager
    def asked(self, text: str, images: Sequence[AttachedImage] = ()) -> Iterator[TextStream]:
        """The answer to a question with the images that wait, and with some of its own.

        Those that wait are used up once the question is part of the conversation; after a failure they wait on.
        """
        if not text.strip():
            raise UsageError("the question is empty")
        used = [*self.waiting, *images]
        self._retries = 0
        with self._counted(lambda: self.chat.stream(text, [image.prepared for image in used])) as stream:
            yield stream
        if stream.result.token_ids:
            self.remember(used)
            self.waiting.clear()

    @contextmanager
    def retried(self) -> Iterator[TextStream]:
        """Another answer to the last question: where the seed is set, by another seed."""
        self._retries += 1
        seed = self.chat.options.get("seed")
        other = {} if seed is None else {"seed": (seed + self._retries) % _SEEDS}
        with self._counted(lambda: self.chat.stream_again(**other)) as stream:
            yield stream

    def set(self, name: str, value: Any) -> None:
        """An option's value from now on; None is the default.

        Raises:
            UsageError: it cannot be; nothing is changed.
        """
        given = {key: old for key, old in self.given.items() if key != name}
        self.chat.options = asked_for(given if value is None else {**given, name: value})

    def reset(self) -> None:
        """Begin anew: without turns, and without images that wait. System prompt and settings stay."""
        self.chat.reset()
        self.waiting.clear()
        self._known.clear()

    @contextmanager
    def _counted(self, begin: Callable[[], TextStream]) -> Iterator[TextStream]:
        stream = begin()
        with stream:
            yield stream
        if stream.result.token_ids:
            self.last = figures_of(stream.result)
            self.figures += self.last

    def _known_as(self, prepared: PromptImage) -> AttachedImage | None:
        for same in (lambda one: one is prepared, lambda one: one.digest == prepared.digest):
            for image in self._known:
                if same(image.prepared):
                    return image
        return None
