"""Requests whose answers are given: the scheduler reads and decodes as always, and what it computes is kept.

Enters: a request and an answer. Leaves: the logits that each token of the answer is chosen by, float32 [N, V]. Compared
along the same tokens, logits tell more than answers do; and where the most likely token is the same everywhere, the
greedy answer is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pumice.decoder.kv_cache import KVCache
from pumice.decoder.prefix_cache import PrefixCache
from pumice.generation.strategy import Piece, Step
from pumice.model import Model
from pumice.result import Generated
from pumice.scheduler.request import Request
from pumice.scheduler.scheduler import Scheduler

Floats = NDArray[np.float32]


class Follower:
    """A `Strategy` that goes on with the tokens of `answer`, whatever the logits say; without one, greedily.

    `drafts` tokens are read ahead, as if so many had been drafted, and rightly.
    """

    is_greedy = False
    rows = 1

    def __init__(
        self, answer: Sequence[int] | None, *, most: int, ends: Sequence[int] = (), drafts: int = 0
    ) -> None:
        self.answer: list[int] = [] if answer is None else list(answer)
        self._given = answer is not None
        self._most, self._ends, self._drafts = most, frozenset(ends), drafts
        self._seen: list[Floats] = []

    @property
    def logits(self) -> Floats:
        """What each token of the answer is chosen by."""
        return np.stack(self._seen)

    def advance(self, logits_RV: Sequence[Floats]) -> list[Step]:
        """The next token of the answer."""
        (logits_V,) = logits_RV
        self._seen.append(logits_V.copy())
        count = len(self._seen)
        if not self._given:
            self.answer.append(int(logits_V.argmax()))
            if count == self._most or self.answer[-1] in self._ends:
                return []
        elif count == len(self.answer):
            return []
        ahead = self.answer[count : min(count + self._drafts, len(self.answer) - 1)]
        return [Step(token=self.answer[count - 1], parent=0, draft=tuple(ahead))]

    def accept(self, tokens_R: Sequence[int]) -> list[Step]:
        """Not asked for: logits are wanted."""
        raise NotImplementedError

    def take_text(self) -> str:
        """Nothing is shown."""
        return ""

    def take_pieces(self) -> list[Piece]:
        """Nothing is shown."""
        return []

    def finish(self, *, cancelled: bool = False) -> list[Generated]:
        """The answer."""
        return [
            Generated(text="", token_ids=self.answer, finish_reason="cancelled" if cancelled else "length")
        ]


def follow(
    model: Model,
    requests: Sequence[Request],
    followers: Sequence[Follower],
    *,
    prefixes: PrefixCache | None = None,
    cache: KVCache | None = None,
) -> None:
    """Answer the requests together, in an empty cache or in `cache`.

    Raises:
        PumiceError: one of them failed.
    """
    decoder = model.pipeline.decoder
    cache = cache or decoder.new_cache(max(request.capacity for request in requests), slots=len(requests))
    scheduler = Scheduler(decoder, cache, prefixes)
    for request, follower in zip(requests, followers, strict=True):
        request.strategy = follower
        scheduler.add(request)
    while scheduler.step():
        pass
    for request in requests:
        if request.error is not None:
            raise request.error
