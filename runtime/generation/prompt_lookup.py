"""Speculative decoding by prompt lookup: n-gram drafts from the prompt and the answer so far.

Enters: ids of the prompt and of the answer so far. Leaves: drafts, to be verified together with the next token.

    … the │ stop sign │ . It is … Is that the │ stop sign │ → "." "It" "is"
           the last time                        now

Verifying a drafted token costs a part of a pass even where it is rejected, so a `Drafter` drafts as many as paid
lately.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

LONGEST_NGRAM = 2
"""Tokens that must agree, at best; transformers' default."""

MOST_DRAFTED = 8
"""Tokens: more were never worth their cost, by the measured rates of acceptance."""

_COST = 0.25
"""Of one token more in a pass, in passes of one token: 0.1 to 0.25 by measurement (docs/benchmarks/speculation.md)."""

_WORTHWHILE = 1.05
"""Tokens for the time of one that a draft must promise."""

_MEMORY = 0.9
"""What an older draft counts, relative to the next one: about ten count."""

_FIRST_RATE = 0.4
"""The rate of acceptance before anything was drafted."""


def draft(
    ids_T: NDArray[np.int64],
    *,
    most: int,
    longest_ngram: int = LONGEST_NGRAM,
    stop_ids: Collection[int] = (),
) -> tuple[int, ...]:
    """Up to `most` drafted tokens for what follows `ids_T`; none if its end never came before.

    The latest place where the last `longest_ngram` tokens came, or else fewer. A continuation that runs into the end of
    `ids_T` goes on with itself: text that repeats has a period. Tokens of `stop_ids` (image tokens, end tokens) end it.
    """
    start = _latest(ids_T, longest_ngram)
    if start is None or most < 1:
        return ()
    period = len(ids_T) - start
    draft: list[int] = ids_T[start + np.arange(most) % period].tolist()
    stop = next((i for i, token in enumerate(draft) if token in stop_ids), most)
    return tuple(draft[:stop])


def _latest(ids_T: NDArray[np.int64], longest_ngram: int) -> int | None:
    """Where what follows the latest equal n-gram begins."""
    length = len(ids_T)
    places = np.flatnonzero(ids_T[:-1] == ids_T[-1]) if length else np.zeros(0, np.int64)  # where it ends
    found: int | None = None
    for n in range(2, longest_ngram + 2):
        if not len(places):
            break
        found = int(places[-1]) + 1
        if n > length:
            break
        places = places[places >= n - 1]
        places = places[ids_T[places - n + 1] == ids_T[length - n]]
    return found


class Drafter:
    """Drafts for one answer, as long as its earlier ones were accepted. Depends on tokens alone, never on time.

    Every draft is compared with what was chosen, also those that were not given out: where drafting does not pay,
    nothing is verified in vain, and where text begins to repeat, that shows for free.
    """

    def __init__(self, most: int = MOST_DRAFTED, stop_ids: Collection[int] = ()) -> None:
        self._most, self._stop_ids = most, frozenset(stop_ids)
        self._guesses: tuple[int, ...] = ()
        self._rate = _FIRST_RATE

    @property
    def rate(self) -> float:
        """The share of drafted tokens that were accepted lately, 0 to 1."""
        return self._rate

    def propose(self, ids_T: NDArray[np.int64]) -> tuple[int, ...]:
        """Drafted tokens for what follows `ids_T` that are worth verifying with its last token; often none."""
        self._guesses = draft(ids_T, most=max(self._most, 1), stop_ids=self._stop_ids)
        return self._guesses[: best_length(self._rate, self._most)]

    def see(self, token: int) -> None:
        """A token was chosen: the next one after those that `propose` last knew, or after the last seen."""
        if self._guesses:
            right = self._guesses[0] == token
            self._rate = _MEMORY * self._rate + (1 - _MEMORY) * right
            self._guesses = self._guesses[1:] if right else ()


def best_length(rate: float, most: int) -> int:
    """How many drafted tokens, 0 to `most`, give the most for their time if each is accepted at `rate`.

    k of them give 1 + rate + … + rate^k tokens for 1 + k / 4 passes.
    """
    best, length, tokens = _WORTHWHILE, 0, 1.0
    for k in range(1, most + 1):
        tokens += rate**k
        if tokens / (1 + _COST * k) > best:
            best, length = tokens / (1 + _COST * k), k
    return length
