"""What the options do to scores before a token is chosen, with transformers' meanings and in transformers' order.

Enters: the ids of prompt and answer so far (one id for each image token, too), and logits. Leaves: scores, minus
infinity where a token must not follow. In this order, each step left out where its option is neutral:

    logit_bias, repetition_penalty, no_repeat_ngram_size, bad_words_ids, min_new_tokens
    and, with do_sample: temperature, top_k, top_p, min_p, typical_p
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pumice.generation.options import GenerationOptions
from pumice.generation.warpers import (
    Warper,
    make_min_p,
    make_top_k,
    make_top_p,
    make_typical_p,
    warp,
)

Floats: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]
Processor: TypeAlias = Callable[[Ids, Floats], Floats]
Edit: TypeAlias = Callable[[Ids, Floats], None]
"""Changes scores_V in place, knowing ids_T."""


def make_processor(options: GenerationOptions, prompt_length: int) -> Processor:
    """All that `options` do to scores: `(ids_T, logits_V) → scores_V`, which leaves its arguments as they are.

    The first `prompt_length` ids are the prompt's. Where all options are neutral, what leaves is what entered.
    """
    edits = _edits(options, prompt_length)
    warpers = _warpers(options) if options.do_sample else ()
    divisor = np.float32(options.temperature if options.do_sample else 1)

    def processor(ids_T: Ids, logits_V: Floats) -> Floats:
        scores_V = logits_V.copy() if edits else logits_V
        with np.errstate(over="ignore"):  # infinities are for the sampler to refuse
            for edit in edits:
                edit(ids_T, scores_V)
            if divisor != 1:
                scores_V = scores_V / divisor
        return warp(scores_V, warpers) if warpers else scores_V

    return processor


def is_greedy(options: GenerationOptions) -> bool:
    """Whether one answer after `options` always has the likeliest tokens, and tells nothing of the others."""
    told = (options.logprobs, options.json_schema, options.regex)
    plain = not options.do_sample and options.num_beams == 1 and told == (None, None, None)
    return plain and not _edits(options, 0)


def _edits(options: GenerationOptions, prompt_length: int) -> tuple[Edit, ...]:
    edits: list[Edit] = []
    if options.logit_bias:
        edits.append(_bias(options.logit_bias))
    if options.repetition_penalty != 1:
        edits.append(_repetition_penalty(options.repetition_penalty))
    if options.no_repeat_ngram_size:
        edits.append(_no_repeated_ngrams(options.no_repeat_ngram_size))
    # an end token alone is never a bad word: min_new_tokens is there to forbid the end
    bad_words = [ids for ids in options.bad_words_ids if len(ids) > 1 or ids[0] not in options.eos_token_id]
    if bad_words:
        edits.append(_no_bad_words(bad_words))
    if options.min_new_tokens and options.eos_token_id:
        edits.append(_no_end(options.eos_token_id, prompt_length + options.min_new_tokens))
    return tuple(edits)


def _warpers(options: GenerationOptions) -> tuple[Warper, ...]:
    # beams need something to go on with beside the tokens that end them
    least = max(2, len(options.eos_token_id) + 1) if options.num_beams > 1 else 1
    warpers: list[Warper] = []
    if options.top_k:
        warpers.append(make_top_k(options.top_k, least))
    if options.top_p < 1:
        warpers.append(make_top_p(options.top_p, least))
    if options.min_p:
        warpers.append(make_min_p(options.min_p, least))
    if options.typical_p < 1:
        warpers.append(make_typical_p(options.typical_p, least))
    return tuple(warpers)


def _bias(biases: Sequence[tuple[int, float]]) -> Edit:
    """Each id's score gets its bias added."""
    tokens_N = np.array([token for token, _ in biases], np.intp)
    biases_N = np.array([bias for _, bias in biases], np.float32)

    def edit(ids_T: Ids, scores_V: Floats) -> None:  # noqa: ARG001  an edit's shape
        scores_V[tokens_N] += biases_N

    return edit


def _repetition_penalty(penalty: float) -> Edit:
    """What prompt and answer have already is divided by `penalty` where it is positive, else multiplied by it."""
    factor = np.float32(penalty)

    def edit(ids_T: Ids, scores_V: Floats) -> None:
        seen_T = ids_T[ids_T < len(scores_V)]  # a placeholder's id may lie behind what the model can say
        scores_T = scores_V[seen_T]
        scores_V[seen_T] = np.where(scores_T < 0, scores_T * factor, scores_T / factor)

    return edit


def _no_repeated_ngrams(size: int) -> Edit:
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


def _no_bad_words(bad_words: Sequence[tuple[int, ...]]) -> Edit:
    """No token that would complete one of these sequences."""
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


def _no_end(eos_ids: Sequence[int], length: int) -> Edit:
    """No end token before `length` ids are there."""
    tokens_N = np.array(eos_ids, np.intp)

    def edit(ids_T: Ids, scores_V: Floats) -> None:
        if len(ids_T) < length:
            scores_V[tokens_N[tokens_N < len(scores_V)]] = -np.inf

    return edit
