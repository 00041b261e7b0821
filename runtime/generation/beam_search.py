"""Beam search: several continuations of a prompt are kept at once, and the best of those that ended are the answers.

Enters: logits of every beam, each a row. Leaves: `Step`s that continue the beams kept; in the end the answers.

As transformers 5 does with `num_beams`: the same candidates, the same scores in float32, the same rules for when to
stop. One step, with two beams and the end token E:

    beams       candidates, best first        ended, of the first two     beams of the next step
    A  −1.0     A E  −1.5 ────────────────▶   A E  −1.5 ÷ length**penalty
    B  −2.0     A x  −1.7 ────────────────────────────────────────────▶   A x  −1.7
                B y  −2.2 ────────────────────────────────────────────▶   B y  −2.2
                B E  −2.9   (not among the first two: forgotten)

So many candidates are taken that enough are left to go on even if every beam may end in every way. Drawn candidates are
put best first, too, as transformers does from 5.24 on: one drawn early that is not among the best two does not end.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pumice.errors import GenerationError
from pumice.generation.answer_text import AnswerText, last_bytes
from pumice.generation.detokenizer import Tokenizer
from pumice.generation.logits_processors import Processor
from pumice.generation.options import GenerationOptions
from pumice.generation.strategy import Floats, Piece, Step
from pumice.result import FinishReason, Generated


@dataclass(frozen=True, kw_only=True)
class _Beam:
    """`ids` are the prompt's and the answer's so far, shape (T,); `score` sums the answer's processed
    log-probabilities."""

    ids: NDArray[np.int64]
    score: np.float32


class BeamSearch:
    """Continues one prompt by `options.num_beams` beams, and gives the best `options.num_return_sequences` answers.

    A `Strategy`. `processor` is applied to every beam's log-probabilities, not to its logits, as transformers does; one
    that draws does so beam after beam, from `rng`, before candidates are drawn.
    With `options.do_sample` candidates are not the most likely, but drawn by `rng` without putting back and
    sorted: distributed as in transformers, from other random numbers. No logprobs are given.

    Where the options leave fewer different answers than asked for (a processor forbids nearly all tokens), the last of
    them is repeated; transformers then repeats answers too, or gives some that go on after their end token.
    """

    def __init__(
        self,
        *,
        prompt_ids: Sequence[int] | NDArray[np.int64],
        options: GenerationOptions,
        max_new_tokens: int,
        eos_ids: Collection[int],
        processor: Processor,
        rng: np.random.Generator,
        tokenizer: Tokenizer,
    ) -> None:
        """`max_new_tokens` is options' own, or less where the context ends before."""
        self._options, self._max_new_tokens = options, max_new_tokens
        self._eos_ids = frozenset(eos_ids)
        self._processor, self._rng, self._tokenizer = processor, rng, tokenizer
        self._prompt_length = len(prompt_ids)
        prompt_T = np.array(prompt_ids, np.int64)
        self._beams = [_Beam(ids=prompt_T, score=np.float32(0))]
        self._ended: list[_Beam] = []  # scores by length, best first
        self._length = 0
        self._done = False

    @property
    def rows(self) -> int:
        """One for each beam; the prompt is one row."""
        return self._options.num_beams

    @property
    def is_greedy(self) -> bool:
        """See `Strategy`."""
        return False

    def accept(self, tokens_R: Sequence[int]) -> list[Step]:
        """See `Strategy`: beams compare whole rows."""
        raise NotImplementedError

    def advance(self, logits_RV: Sequence[Floats]) -> list[Step]:
        """Continue the beams; `logits_RV` has one row, the prompt's, at first, and later one for each step given.

        Raises:
            GenerationError: the options forbid every token, and no answer has ended.
        """
        candidates = self._candidates(logits_RV)
        self._length += 1
        width = self._options.num_beams
        ends = [self._length == self._max_new_tokens or self._is_end(c) for c in candidates]
        self._keep_ended([c for c, end in zip(candidates[:width], ends, strict=False) if end])
        open_ones = [c for c, end in zip(candidates, ends, strict=True) if not end]
        going_on = open_ones[:width]
        beams = [self._extended(c, c.score) for c in going_on]
        if not beams and not self._ended:
            raise GenerationError(
                f"the options forbid every token after {self._length - 1} of the answer; expected one at least: "
                "loosen bad_words_ids, logit_bias, no_repeat_ngram_size or what constrains the answer"
            )
        self._done = not beams or not self._is_worthwhile(beams[0].score)
        if self._done:
            return []
        self._beams = beams
        return [Step(token=c.token, parent=c.row) for c in going_on]

    def take_text(self) -> str:
        """Nothing: which beam wins is known in the end only."""
        return ""

    def take_pieces(self) -> list[Piece]:
        """See `Strategy`: which beam is the best one shows in the end."""
        return []

    def finish(self, *, cancelled: bool = False) -> list[Generated]:
        """The answers, best first; of a search that has not ended, the best so far, whether they ended or not."""
        if self._done:
            return [self._generated(beam) for beam in self._best(self._ended)]
        assert cancelled, "a search that goes on can only be cancelled"
        open_ones = [_Beam(ids=b.ids, score=self._by_length(b.score)) for b in self._beams]
        return [self._generated(beam, "cancelled") for beam in self._best([*self._ended, *open_ones])]

    def _candidates(self, logits_RV: Sequence[Floats]) -> list[Candidate]:
        """Best first; of equals the earlier row's and lower token's, or the one drawn first."""
        scores_RV = [
            self._processor(beam.ids, _log_softmax(logits_V), self._rng) + beam.score
            for beam, logits_V in zip(self._beams, logits_RV, strict=True)
        ]
        count = max(2, 1 + len(self._eos_ids)) * self._options.num_beams
        if self._options.do_sample:
            return sorted(drawn(scores_RV, count, self._rng), key=lambda c: -c.score)
        return best(scores_RV, count)

    def _is_end(self, candidate: Candidate) -> bool:
        """Whether it ends with an end token or in a stop string; what it continues does not."""
        if candidate.token in self._eos_ids:
            return True
        last = self._tokenizer.token_bytes(candidate.token)
        return any(self._ends_in(candidate, string.encode(), last) for string in self._options.stop_strings)

    def _ends_in(self, candidate: Candidate, string: bytes, last: bytes) -> bool:
        """Whether the stop string `string` ends in the candidate's token, whose bytes are `last`; it may begin in the
        prompt, as in transformers."""
        before = last_bytes(self._tokenizer, self._beams[candidate.row].ids, len(string) - 1)
        return string in before[max(0, len(before) - len(string) + 1) :] + last

    def _keep_ended(self, candidates: Sequence[Candidate]) -> None:
        """Add to the answers; the best `num_beams` stay, the earlier ones of equals."""
        new = [self._extended(candidate, self._by_length(candidate.score)) for candidate in candidates]
        self._ended = sorted([*self._ended, *new], key=lambda beam: -beam.score)[: self._options.num_beams]

    def _extended(self, candidate: Candidate, score: np.float32) -> _Beam:
        return _Beam(ids=np.append(self._beams[candidate.row].ids, candidate.token), score=score)

    def _by_length(self, score: np.float32, length: int | None = None) -> np.float32:
        """`score` as answers are compared; a penalty above 0 prefers long ones, as scores are negative."""
        return score / np.float32(max(length or self._length, 1) ** self._options.length_penalty)

    def _is_worthwhile(self, best: np.float32) -> bool:
        """Whether open beams, the best of which has this score, may still beat the worst answer."""
        early_stopping, penalty = self._options.early_stopping, self._options.length_penalty
        if len(self._ended) < self._options.num_beams:
            return True
        if early_stopping is True:
            return False
        # "never" judges by the length that suits open beams most, False by their length now
        length = self._max_new_tokens if early_stopping == "never" and penalty > 0 else self._length
        return bool(self._by_length(best, length) > self._ended[-1].score)

    def _best(self, beams: Sequence[_Beam]) -> list[_Beam]:
        count = self._options.num_return_sequences
        best = sorted(beams, key=lambda beam: -beam.score)[:count]
        return [*best, *best[-1:] * (count - len(best))]

    def _generated(self, beam: _Beam, reason: FinishReason | None = None) -> Generated:
        ids: list[int] = beam.ids[self._prompt_length :].tolist()
        text = AnswerText(self._tokenizer, self._options.stop_strings, beam.ids[: self._prompt_length])
        pieces = [*(text.add(token_id) for token_id in ids), text.finish()]
        stopped = text.found or (len(ids) > 0 and ids[-1] in self._eos_ids)
        return Generated(
            text="".join(pieces),
            token_ids=ids,
            finish_reason=reason or ("stop" if stopped else "length"),
        )


def _log_softmax(logits_V: Floats) -> Floats:
    shifted_V = logits_V - logits_V.max()
    return shifted_V - np.log(np.exp(shifted_V).sum())  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Beam number `row` continued by `token`; `score` is of the whole continuation."""

    row: int
    token: int
    score: np.float32


def best(scores_RV: Sequence[Floats], count: int) -> list[Candidate]:
    """The `count` highest, highest first; of equals the earlier row's first, and of one row the lower token's."""
    return _highest_of_all(scores_RV, scores_RV, count)


def drawn(scores_RV: Sequence[Floats], count: int, rng: np.random.Generator) -> list[Candidate]:
    """`count` different ones, in the order in which they are drawn, each by exp(score) among those that are left.

    Adding independent Gumbel noise to the logarithms and taking the highest is the same as drawing one after another
    without putting back, and needs no sum over what is left.
    """
    return _highest_of_all(scores_RV, [_with_noise(scores_V, rng) for scores_V in scores_RV], count)


def _with_noise(scores_V: Floats, rng: np.random.Generator) -> NDArray[np.float64]:
    possible = np.flatnonzero(scores_V > -np.inf)  # few of them, mostly
    noisy_V = np.full(len(scores_V), -np.inf)
    noisy_V[possible] = scores_V[possible] + rng.gumbel(size=len(possible))
    return noisy_V


def _highest_of_all(
    scores_RV: Sequence[Floats], keys_RV: Sequence[NDArray[np.floating]], count: int
) -> list[Candidate]:
    """Those of the `count` highest keys, highest first."""
    places = [
        (keys_V[token], row, token)
        for row, keys_V in enumerate(keys_RV)
        for token in _highest(keys_V, count).tolist()
    ]
    places.sort(key=lambda place: -place[0])
    return [Candidate(row=row, token=token, score=scores_RV[row][token]) for _, row, token in places[:count]]


def _highest(keys_V: NDArray[np.floating], count: int) -> NDArray[np.intp]:
    """Indices of the `count` highest keys above minus infinity, highest first, the lower index first of equals.

    One partition finds the last key that belongs to them (0.2 ms for 152,000), so only few are ever sorted.
    """
    size = len(keys_V)
    last = np.partition(keys_V, size - count)[size - count] if count < size else -np.inf
    chosen = np.flatnonzero((keys_V >= last) & (keys_V > -np.inf))
    return chosen[np.argsort(-keys_V[chosen], kind="stable")][:count]
