"""What a generation gives: text, token ids, why it ended, counts and times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Counts of tokens; `image_tokens` of the prompt's stand for pictures."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    image_tokens: int


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
class Generation:
    """An answer.

    `text` is without special tokens; `token_ids` are all tokens generated, the one that ended the answer included.
    `finish_reason` is `stop` (the model ended its answer), `length` (`max_new_tokens`, or the context's end) or
    `cancelled`.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
