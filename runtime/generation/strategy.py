"""What decides how a prompt is continued, apart from what computes the logits.

Enters: logits of the rows that go on. Leaves: the tokens of the next decode step, each over the cache of a row.

A request begins with one row, its prompt. A strategy may make several of it (beams, several answers to one prompt),
drop some, and in the end drop all:

    prompt ─▶ logits_V ─advance─▶ Step(token 5, parent 0)  ─▶ logits_V ─┐
                                  Step(token 9, parent 0)  ─▶ logits_V ─┴advance─▶ Step(token 2, parent 1) ─▶ …  ─▶ []
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pumice.result import Generated, TokenLogprobs

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A row that goes on: `token` comes over the cache of `parent`, an index into the rows before.

    `draft` are tokens that may follow it, which may be verified with it to save time: rows' logits are then given to
    `advance` one after another for as long as it chooses what was drafted.
    """

    token: int
    parent: int
    draft: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one of several answers got since it was last looked at: tokens, and text that has become final."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None


class Strategy(Protocol):
    """Continues one request. `rows` is the most rows that it has at once."""

    @property
    def rows(self) -> int:
        """At most so many rows at once, 1 or more."""
        ...

    @property
    def is_greedy(self) -> bool:
        """Whether it always chooses the most likely token of a row and needs no more: `accept` may be called."""
        ...

    def advance(self, logits_RV: Sequence[Floats]) -> list[Step]:
        """Choose from the logits of every row, each of shape (vocabulary,) and finite, and valid during the call only.

        Returns the rows that go on, in the order in which `advance` wants their logits next; none once all is said.

        Raises:
            GenerationError: nothing can be chosen.
        """
        ...

    def accept(self, tokens_R: Sequence[int]) -> list[Step]:
        """As `advance` behind the prompt's, with the most likely token of every row instead of its logits."""
        ...

    def take_text(self) -> str:
        """Text that has become final since the last call; always empty where several answers are made."""
        ...

    def take_pieces(self) -> list[Piece]:
        """What each answer got since the last call, where it got anything; in place of `take_text`.

        Empty where answers are known in the end only.
        """
        ...

    def finish(self, *, cancelled: bool = False) -> list[Generated]:
        """The answers, best first: after the last `advance`, or where a cancelled request stands."""
        ...
