"""The loop: a prompt's tokens are read at once, then every token is chosen, given out, and read in turn.

ids [T] ─prefill─▶ logits ─sample─▶ token ─decode_one─▶ logits ─sample─▶ token ─ … until one ends the answer
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pumice.cache import KVCache
from pumice.decoder import Decoder, DecodeStep
from pumice.sampling import Sampler


@dataclass(frozen=True, kw_only=True)
class Request:
    """A generation to be made.

    `ids` is the whole prompt, of which `cache` holds the first `cache.length` tokens already; `features` gives the
    features of all its pictures, float32 [image tokens, D], and encodes those that have not been.
    """

    ids: list[int]
    features: Callable[[], NDArray[np.float32]]
    image_token_id: int
    cache: KVCache
    sampler: Sampler
    eos_ids: Collection[int]
    max_new_tokens: int


def generate(
    decoder: Decoder, request: Request, features: NDArray[np.float32], rng: np.random.Generator
) -> Iterator[int]:
    """Tokens of the answer, the one that ends it included."""
    known = request.cache.length
    seen = request.ids[:known].count(request.image_token_id)
    logits_V = decoder.prefill(request.ids[known:], features[seen:], request.cache)
    decode_one = DecodeStep(decoder, request.cache)
    for remaining in reversed(range(request.max_new_tokens)):
        token = request.sampler(logits_V, rng)
        yield token
        if token in request.eos_ids or remaining == 0:
            return
        logits_V = decode_one(token)
