"""Edits change scores in place, by the ids of prompt and answer: biases, penalties, forbidden tokens, temperature.

Enters: ids so far, int64 (T,) (one for each image token, too), and scores of the whole vocabulary, float32 (V,).
Leaves: nothing; the scores are changed, minus infinity where a token must not follow. A maker gives None where nothing
is to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]
Edit: TypeAlias = Callable[[Ids, Floats], None]
"""Changes scores_V in place, knowing ids_T."""


def make_bias(biases: Sequence[tuple[int, float]]) -> Edit:
    """Each id's score gets its bias added."""
    tokens_N = np.array([token for token, _ in biases], np.intp)
    biases_N = np.array([bias for _, bias in biases], np.float32)

    def edit(ids_T: Ids, scores_V: Floats) -> None:  # noqa: ARG001  an edit's shape
        scores_V[tokens_N] += biases_N

    return edit


def make_repetition_penalty(penalty: float) -> Edit:
    """What prompt and answer have already is divided by `penalty` where it is positive, else multiplied by it."""
    factor = np.float32(penalty)

    def edit(ids_T: Ids, scores_V: Floats) -> None:
        seen_T = ids_T[ids_T < len(scores_V)]  # a placeholder's id may lie behind what the model can say
        scores_T = scores_V[seen_T]
        scores_V[seen_T] = np.where(scores_T < 0, scores_T * factor, scores_T / factor)

    return edit


def make_frequency_penalty(penalty: float, prompt_length: int) -> Edit:
    """Each token of the answer so far loses `penalty` for every time it came, as OpenAI has it; the prompt's do not."""
    factor = np.float32(penalty)

    def edit(ids_T: Ids, scores_V: Floats) -> None:
        tokens_N, counts_N = np.unique(ids_T[prompt_length:], return_counts=True)
        scores_V[tokens_N] -= factor * counts_N.astype(np.float32)

    return edit


def make_presence_penalty(penalty: float, prompt_length: int) -> Edit:
    """Each token of the answer so far loses `penalty`, however often it came, as OpenAI has it; the prompt's do not."""
    loss = np.float32(penalty)

    def edit(ids_T: Ids, scores_V: Floats) -> None:
        scores_V[np.unique(ids_T[prompt_length:])] -= loss

    return edit


def make_no_repeated_ngrams(size: int) -> Edit:
    """No token that would end the same `size` tokens as stand somewhere in prompt and answer."""

    def edit(ids_T: Ids, scores_V: Floats) -> None:
        prefix_T = ids_T[len(ids_T) - size + 1 :] if len(ids_T) >= size else None
        if prefix_T is None:
            return
        starts_N = np.arange(len(ids_T) - size + 1)
        for offset, token in enumerate(prefix_T):
            starts_N = starts_N[ids_T[starts_N + offset] == token]
        banned_N = ids_T[starts_N + size - 1]
        scores_V[banned_N[banned_N < len(scores_V)]] = -np.inf

    return edit


def make_no_bad_words(bad_words: Sequence[tuple[int, ...]], eos_ids: Sequence[int]) -> Edit | None:
    """No token that would complete one of these sequences.

    An end token alone is never a bad word: `min_new_tokens` is there to forbid the end.
    """
    bad_words = [ids for ids in bad_words if len(ids) > 1 or ids[0] not in eos_ids]
    if not bad_words:
        return None
    alone_N = np.array([ids[0] for ids in bad_words if len(ids) == 1], np.intp)
    by_last: dict[int, list[tuple[int, ...]]] = {}  # by the token that stands before the one to forbid
    for ids in bad_words:
        if len(ids) > 1:
            by_last.setdefault(ids[-2], []).append(ids)

    def edit(ids_T: Ids, scores_V: Floats) -> None:
        scores_V[alone_N] = -np.inf
        for ids in by_last.get(int(ids_T[-1]), ()) if len(ids_T) else ():
            if tuple(ids_T[1 - len(ids) :].tolist()) == ids[:-1]:
                scores_V[ids[-1]] = -np.inf

    return edit


def make_no_end(eos_ids: Sequence[int], length: int) -> Edit | None:
    """No end token before `length` ids are there."""
    if not eos_ids:
        return None
    tokens_N = np.array(eos_ids, np.intp)

    def edit(ids_T: Ids, scores_V: Floats) -> None:
        if len(ids_T) < length:
            scores_V[tokens_N[tokens_N < len(scores_V)]] = -np.inf

    return edit


def make_division(divisor: float) -> Edit:
    """All scores are divided by `divisor`."""
    divisor_32 = np.float32(divisor)

    def edit(ids_T: Ids, scores_V: Floats) -> None:  # noqa: ARG001  an edit's shape
        scores_V /= divisor_32

    return edit
