"""One answer as it grows: logits in, a token out, and text as it becomes final.

Enters: logits. Leaves: tokens, pieces of text that never end inside a character or show a stop string's beginning, and
why the answer ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pumice.generation.answer_text import AnswerText
from pumice.generation.grammar import Matcher
from pumice.generation.logits_processors import Processor
from pumice.generation.sampling import Sampler
from pumice.generation.strategy import Piece
from pumice.result import FinishReason, Generated, TokenLogprob, TokenLogprobs

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the answers to one prompt are chosen and when they end.

    `logprobs` is how many of the most likely tokens are reported beside each chosen one; None: nothing is.
    """

    processor: Processor
    sampler: Sampler
    eos_ids: Collection[int]
    max_new_tokens: int
    logprobs: int | None
    token_text: Callable[[int], str]
    is_greedy: bool = False
    """Whether nothing but the most likely token can be chosen, whatever the logits."""


class GeneratedSequence:
    """One answer; `ids` are its tokens so far, and `context` the prompt's with them."""

    def __init__(
        self,
        prompt_ids: NDArray[np.int64],
        rules: Rules,
        *,
        rng: np.random.Generator,
        text: AnswerText,
        matcher: Matcher | None,
    ) -> None:
        self._rules, self._rng, self._matcher = rules, rng, matcher
        self._final = text
        self._ids = np.concatenate([prompt_ids, np.zeros(rules.max_new_tokens, np.int64)])
        self._prompt = len(prompt_ids)
        self._count = 0
        self._text: list[str] = []
        self._shown = self._told = 0
        self._logprobs: list[TokenLogprobs] = []
        self._finish_reason: FinishReason | None = None

    @property
    def context(self) -> NDArray[np.int64]:
        """Ids of the prompt and of the answer so far."""
        return self._ids[: self._prompt + self._count]

    @property
    def ids(self) -> list[int]:
        """Ids of the answer so far."""
        ids: list[int] = self._ids[self._prompt : self._prompt + self._count].tolist()
        return ids

    @property
    def room(self) -> int:
        """Tokens that the answer may still get."""
        return self._rules.max_new_tokens - self._count

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self._finish_reason is not None

    @property
    def is_greedy(self) -> bool:
        """Whether `accept` may be called with the most likely token instead of `choose` with logits."""
        return self._rules.is_greedy

    def choose(self, logits_V: Floats) -> int:
        """Choose the next token; the answer may have ended with it.

        Raises:
            GenerationError: the options leave no token to choose.
        """
        rules = self._rules
        scores_V = logits_V if self._matcher is None else self._matcher.mask(logits_V)
        token = rules.sampler(rules.processor(self.context, scores_V, self._rng), self._rng)
        if rules.logprobs is not None:
            self._logprobs.append(top_logprobs(logits_V, token, rules.logprobs, rules.token_text))
        return self.accept(token)

    def accept(self, token: int) -> int:
        """Go on with a token that was chosen; the answer may have ended with it."""
        rules = self._rules
        self._ids[self._prompt + self._count] = token
        self._count += 1
        if self._matcher is not None:
            self._matcher.accept(token)
        self._show(self._final.add(token))
        complete = self._matcher is not None and self._matcher.finished
        if token in rules.eos_ids or self._final.found or complete:
            self._end("stop")
        elif self._count == rules.max_new_tokens:
            self._end("length")
        return token

    def take_text(self) -> str:
        """Text that has become final since the last call."""
        text = "".join(self._text[self._shown :])
        self._shown = len(self._text)
        return text

    def take_piece(self, index: int) -> Piece:
        """The same with the tokens since the last call, and their log-probabilities; `index` is the answer's."""
        told, self._told = self._told, self._count
        return Piece(
            index=index,
            text=self.take_text(),
            token_ids=tuple(self._ids[self._prompt + told : self._prompt + self._count].tolist()),
            logprobs=None if self._rules.logprobs is None else tuple(self._logprobs[told:]),
        )

    def finish(self, *, cancelled: bool) -> Generated:
        """The answer; one that has not ended ends here."""
        if not self.finished and cancelled:
            self._end("cancelled")
        assert self._finish_reason is not None
        return Generated(
            text="".join(self._text),
            token_ids=self.ids,
            finish_reason=self._finish_reason,
            logprobs=None if self._rules.logprobs is None else tuple(self._logprobs),
        )

    def _end(self, reason: FinishReason) -> None:
        """End, showing what was held back."""
        self._finish_reason = reason
        self._show(self._final.finish())

    def _show(self, piece: str) -> None:
        if piece:
            self._text.append(piece)


def top_logprobs(logits_V: Floats, token_id: int, top: int, text: Callable[[int], str]) -> TokenLogprobs:
    """The log-probability of `token_id`, and of the `top` most likely tokens, of equals those with lower ids first.

    `logits_V` has shape (vocabulary,); `text` gives a token's text. Computed in float64.
    """
    highest = float(logits_V.max())
    total = highest + float(np.log(np.exp(logits_V.astype(np.float64) - highest).sum()))

    def entry(i: int) -> TokenLogprob:
        return TokenLogprob(token_id=i, token=text(i), logprob=float(logits_V[i]) - total)

    chosen = entry(token_id)
    return TokenLogprobs(
        token_id=token_id,
        token=chosen.token,
        logprob=chosen.logprob,
        top=tuple(entry(i) for i in _top(logits_V, top)),
    )


def _top(logits_V: Floats, top: int) -> list[int]:
    """Ids of the `top` highest logits, highest first."""
    top = min(top, len(logits_V))
    if top == 0:
        return []
    lowest = np.partition(logits_V, -top)[-top]  # argpartition would take any of those that equal it
    ids = np.flatnonzero(logits_V >= lowest)
    ordered: list[int] = ids[np.argsort(-logits_V[ids], kind="stable")][:top].tolist()
    return ordered
