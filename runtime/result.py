"""What a generation gives: text, token ids, why it ended, counts and times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Counts of tokens: of the prompt's, `image_tokens` stand for images, and `cached_tokens` were prefix hits."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    image_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds, and the speed of decoding.

    `load` is the model's, once; `time_to_first_token` runs from the call, so it holds `preprocess`, `vision` and
    `prefill`; `decode` and `tokens_per_second` are of the tokens after the first.
    """

    load: float
    preprocess: float
    vision: float
    prefill: float
    time_to_first_token: float
    decode: float
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability, by the model's logits as they are before any option."""

    token_id: int
    token: str
    logprob: float


@dataclass(frozen=True, kw_only=True)
class TokenLogprobs(TokenLogprob):
    """A generated token, and the most likely ones at its place, most likely first."""

    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a strategy gives for one answer; fields as `Generation` has them."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Generation(Generated):
    """An answer.

    `text` is without special tokens, and ends before a stop string; `token_ids` are all tokens generated, those that
    ended the answer included. `finish_reason` is `stop` (the model ended its answer, or a stop string did), `length`
    (`max_new_tokens`, or the context's end) or `cancelled`. `logprobs` has an entry for each of `token_ids`, if asked
    for.
    """

    usage: Usage
    timings: Timings
