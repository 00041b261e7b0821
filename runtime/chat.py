"""A conversation: turns are remembered, and what the model has read it does not read again.

Every turn renders the whole conversation and compares its token ids with those in the cache. The cache is rewound to
where they part, usually the end, and only the rest is read:

    cache   <s> USER: … ASSISTANT: A cat.
    prompt  <s> USER: … ASSISTANT: A cat. USER: What colour? ASSISTANT:
                                          └─ read now ─────────────────┘
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pumice.answerer import Answerer
from pumice.images import ImageInput, image_list
from pumice.preprocess import Size
from pumice.result import Generation
from pumice.stream import TextStream

Floats = NDArray[np.float32]


class Chat:
    """A conversation with a model; made by `Model.chat`. Not for several threads at once.

    A turn that fails (an unreadable picture, a full context) leaves the conversation as it was.
    """

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._stream: TextStream | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all turns; an answer under way is cancelled."""
        if self._stream is not None:
            self._stream.cancel()
        self._messages: list[dict[str, Any]] = []
        self._features: list[Floats] = []
        self._sizes: list[Size] = []
        self._ids: list[int] = []
        self._cache = self._answerer.decoder.new_cache(1)

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The conversation so far, in the Hugging Face form."""
        return tuple(self._messages)

    def send(
        self,
        text: str,
        images: Sequence[ImageInput] | ImageInput | None = None,
        *,
        max_new_tokens: int | None = None,
    ) -> Generation:
        """Say something, with pictures or without; returns the answer. Raises as `Model.generate`."""
        with self.stream(text, images, max_new_tokens=max_new_tokens) as stream:
            for _ in stream:
                pass
        return stream.result

    def stream(
        self,
        text: str,
        images: Sequence[ImageInput] | ImageInput | None = None,
        *,
        max_new_tokens: int | None = None,
    ) -> TextStream:
        """Say something; returns the answer's stream.

        The turn is part of the conversation once the stream has ended, or was cancelled: then with the words given so
        far, if any. An answer still under way is cancelled first.
        """
        if self._stream is not None:
            self._stream.cancel()
        started = time.perf_counter()
        answerer, pictures = self._answerer, image_list(images)
        limit = answerer.checked_limit(max_new_tokens)
        question = {
            "role": "user",
            "content": [*[{"type": "image"}] * len(pictures), {"type": "text", "text": text}],
        }
        messages = [*self._messages, question]
        prepared = answerer.builder.prepare(messages, pictures, earlier=self._sizes)
        ids = prepared.input_ids[0].tolist()
        new = answerer.room(len(ids), limit)
        self._cache.reserve(len(ids) + new)
        self._cache.rewind(min(_common(self._ids, ids), len(ids) - 1))
        features = [*self._features]
        sizes = [
            *self._sizes,
            *((height, width) for _, height, width in (p.shape for p in prepared.pictures)),
        ]

        def all_features() -> Floats:
            features.extend(answerer.decoder.encode_pictures([picture]) for picture in prepared.pictures)
            return np.concatenate([answerer.decoder.encode_pictures([]), *features])

        def remember(answer: Generation) -> None:
            if not answer.token_ids:
                return
            reply = {"role": "assistant", "content": [{"type": "text", "text": answer.text.strip()}]}
            self._messages = [*messages, reply]
            self._features, self._sizes = features, sizes
            self._ids = [*ids, *answer.token_ids][: self._cache.length]

        self._ids = ids[: self._cache.length]
        self._stream = answerer.stream(
            ids, all_features, self._cache, max_new_tokens=new, started=started, on_end=remember
        )
        return self._stream


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences begin with in common."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))
