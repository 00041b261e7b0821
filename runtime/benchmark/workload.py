"""What is run to be measured: prompts of given lengths through the scheduler that answers questions, too.

Enters: a decoder and lengths. Leaves: seconds of prefill, and of each decode step behind it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pumice.decoder.decoder import Decoder
from pumice.decoder.kv_cache import KVCache
from pumice.errors import UsageError
from pumice.generation.strategy import Floats, Piece, Step
from pumice.images.prepared import PromptImage
from pumice.manifest import DecoderShape, Manifest
from pumice.result import Generated
from pumice.scheduler.request import Clock, Request
from pumice.scheduler.scheduler import Scheduler
from pumice.sessions.runs import Cancellation
from pumice.vision.encoder import ImageEncoder
from pumice.vision.features import PromptFeatures

QUESTION = (
    "Look at this picture carefully and describe in a few plain sentences what it shows, which colours stand out, "
    "and what may have happened just before."
)
"""26 words."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """How long prompts are, and how often all is repeated.

    `prompt` tokens are prefilled; `new` tokens are decoded, from each of `contexts` tokens on.
    """

    prompt: int = 512
    contexts: tuple[int, ...] = (100, 2000)
    new: int = 32
    repeats: int = 5

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        numbers = {"prompt": self.prompt, "repeats": self.repeats}
        for name, number in numbers.items() | {("context", context) for context in self.contexts}:
            if number < 1:
                raise UsageError(f"{name} is {number}, expected 1 or more")
        if self.new < 2:
            raise UsageError(f"new tokens are {self.new}, expected 2 or more")

    def fitted(self, context_length: int) -> Workload:
        """The same with what a model of that context has room for."""
        new = min(self.new, max(2, context_length // 2))
        room = context_length - new
        contexts = dict.fromkeys(min(context, room) for context in self.contexts)
        return Workload(
            prompt=min(self.prompt, context_length - 1),
            contexts=tuple(contexts),
            new=new,
            repeats=self.repeats,
        )


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds from the beginning to the first token, and of each token after it."""

    first_s: float
    token_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a loaded bundle that compute."""

    manifest: Manifest
    decoder: Decoder
    encoder: ImageEncoder

    def encode(self, image: PromptImage) -> float:
        """Seconds that the vision encoder takes; it must not remember images."""
        began = time.perf_counter()
        self.encoder.encode([image], Cancellation())
        return time.perf_counter() - began

    def prefill(self, tokens: int) -> float:
        """Seconds of prefill of so many tokens, and of choosing the first."""
        return self._answer(self._ids(tokens), self.decoder.new_cache(tokens + 1), 1).first_s

    def decode(self, context: int, new: int) -> tuple[float, ...]:
        """Seconds of each of `new` tokens that are decoded behind `context` others.

        Those are not prefilled: noise in the cache takes as long to attend to.
        """
        cache = self.decoder.new_cache(context + new + 1)
        ids = self._ids(context)
        cache.write(0, 0, cache_noise(self.decoder.shape, context))
        cache.fill(0, ids)
        return self._answer(ids, cache, new + 1).token_s

    def _ids(self, count: int) -> list[int]:
        """Any tokens but the image's."""
        ids = np.random.default_rng(0).integers(0, self.decoder.shape.vocab_size - 1, count)
        return [int(number) for number in ids + (ids >= self.manifest.image_tokens.token_id)]

    def _answer(self, ids: list[int], cache: KVCache, tokens: int) -> Spent:
        """Answer a prompt with so many tokens over a cache that may have some of it."""
        strategy, began = _Likeliest(tokens), time.perf_counter()
        request = Request(
            ids, ids, PromptFeatures([], self.encoder), strategy, Clock(started=began), max_new_tokens=tokens
        )
        scheduler = Scheduler(self.decoder, cache)
        scheduler.add(request)
        while scheduler.step():
            pass
        request.results()  # raises what went wrong
        gaps: NDArray[np.float64] = np.diff(strategy.times)
        return Spent(first_s=strategy.times[0] - began, token_s=tuple(gaps.tolist()))


def cache_noise(shape: DecoderShape, positions: int) -> NDArray[Any]:
    """Keys and values that no prompt has made, for `KVCache.write`."""
    block = np.random.default_rng(0).standard_normal(
        (2 * shape.layers, shape.kv_heads, positions, shape.head_dim), np.float32
    )
    return (block * (32 if shape.kv_dtype == "int8" else 0.1)).clip(-127, 127).astype(shape.kv_dtype)


class _Likeliest:
    """A strategy: the most likely token, whatever it means, so many times."""

    rows = 1
    is_greedy = True

    def __init__(self, count: int) -> None:
        self._count = count
        self.times: list[float] = []

    def advance(self, logits_RV: Sequence[Floats]) -> list[Step]:
        return self.accept([int(logits_V.argmax()) for logits_V in logits_RV])

    def accept(self, tokens_R: Sequence[int]) -> list[Step]:
        self.times.append(time.perf_counter())
        return [] if len(self.times) == self._count else [Step(token=tokens_R[0], parent=0)]

    def take_text(self) -> str:
        return ""

    def take_pieces(self) -> list[Piece]:
        return []

    def finish(self, *, cancelled: bool = False) -> list[Generated]:
        return [Generated(text="", token_ids=[], finish_reason="cancelled" if cancelled else "length")]


def synthetic_image() -> Image.Image:
    """640 × 480: colours that change slowly, and some noise."""
    rows, columns = np.mgrid[0:480, 0:640]
    ramps = np.stack([columns * 255 / 639, rows * 255 / 479, (rows + columns) * 255 / 1118], axis=2)
    noise = np.random.default_rng(0).normal(0, 12, ramps.shape)
    return Image.fromarray(np.clip(ramps + noise, 0, 255).astype(np.uint8))
