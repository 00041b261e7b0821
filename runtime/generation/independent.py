"""Answers to one prompt that are chosen independently of each other: greedily, or by sampling.

The rows are those answers that have not ended, in order:

    prompt ─▶ answers 0, 1, 2 ─▶ rows 0, 1, 2 ─answer 1 ends─▶ rows 0, 2
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pumice.generation.prompt_lookup import Drafter
from pumice.generation.sequence import GeneratedSequence
from pumice.generation.strategy import Piece, Step
from pumice.result import Generated

Floats = NDArray[np.float32]


class IndependentSequences:
    """A `Strategy` of independent answers; `drafter` drafts tokens where there is only one."""

    def __init__(self, answers: Sequence[GeneratedSequence], drafter: Drafter | None = None) -> None:
        assert len(answers) == 1 or drafter is None
        self._answers, self._drafter = tuple(answers), drafter
        self._going: list[GeneratedSequence] = []
        self._begun = False

    @property
    def rows(self) -> int:
        """Answers that have not ended."""
        return len(self._going) if self._begun else len(self._answers)

    @property
    def is_greedy(self) -> bool:
        """See `Strategy`."""
        return all(answer.is_greedy for answer in self._answers)

    def advance(self, logits_RV: Sequence[Floats]) -> list[Step]:
        """See `Strategy`."""
        if not self._begun:
            self._begun = True
            return self._steps([(0, answer, answer.choose(logits_RV[0])) for answer in self._answers])
        pairs = zip(self._going, logits_RV, strict=True)
        return self._steps([(row, a, a.choose(logits_V)) for row, (a, logits_V) in enumerate(pairs)])

    def accept(self, tokens_R: Sequence[int]) -> list[Step]:
        """See `Strategy`."""
        pairs = zip(self._going, tokens_R, strict=True)
        return self._steps([(row, a, a.accept(token)) for row, (a, token) in enumerate(pairs)])

    def _steps(self, chosen: list[tuple[int, GeneratedSequence, int]]) -> list[Step]:
        """Of rows, answers and their tokens those that go on."""
        chosen = [(row, answer, token) for row, answer, token in chosen if not answer.finished]
        self._going = [answer for _, answer, _ in chosen]
        return [
            Step(token=token, parent=row, draft=self._draft(answer, token)) for row, answer, token in chosen
        ]

    def take_text(self) -> str:
        """See `Strategy`."""
        return self._answers[0].take_text() if len(self._answers) == 1 else ""

    def take_pieces(self) -> list[Piece]:
        """See `Strategy`."""
        pieces = [answer.take_piece(index) for index, answer in enumerate(self._answers)]
        return [piece for piece in pieces if piece.text or piece.token_ids]

    def finish(self, *, cancelled: bool = False) -> list[Generated]:
        """See `Strategy`."""
        return [answer.finish(cancelled=cancelled) for answer in self._answers]

    def _draft(self, answer: GeneratedSequence, token: int) -> tuple[int, ...]:
        if self._drafter is None:
            return ()
        self._drafter.see(token)
        return self._drafter.propose(answer.context)[: answer.room - 1]
