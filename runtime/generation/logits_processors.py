"""What the options do to scores before a token is chosen, with transformers' meanings and in transformers' order.

Enters: the ids of prompt and answer so far (one id for each image token, too), logits, and the answer's generator of
random numbers. Leaves: scores, minus infinity where a token must not follow. Steps are applied in the order of
`pumice.generation.option_table`: edits, then warpers; one whose option is neutral is left out, and so is one that only
counts with do_sample, without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from pumice.generation.edits import Edit, Floats, Ids
from pumice.generation.option_table import OPTIONS, Option
from pumice.generation.options import GenerationOptions
from pumice.generation.warpers import warp

Processor: TypeAlias = Callable[[Ids, Floats, np.random.Generator], Floats]


def make_processor(options: GenerationOptions, prompt_length: int) -> Processor:
    """All that `options` do to scores: `(ids_T, logits_V, rng) → scores_V`, which leaves its arrays as they are.

    The first `prompt_length` ids are the prompt's. Where all options are neutral, what leaves is what entered. Only
    options that say so draw from `rng`.
    """
    edits = _edits(options, prompt_length)
    warpers = tuple(option.warper(options) for option in _applied(options) if option.warper)

    def processor(ids_T: Ids, logits_V: Floats, rng: np.random.Generator) -> Floats:
        scores_V = logits_V.copy() if edits else logits_V
        with np.errstate(over="ignore"):  # infinities are for the sampler to refuse
            for edit in edits:
                edit(ids_T, scores_V)
        return warp(scores_V, warpers, rng) if warpers else scores_V

    return processor


def is_greedy(options: GenerationOptions) -> bool:
    """Whether one answer after `options` always has the most likely tokens, and tells nothing of the others."""
    reported = (options.logprobs, options.json_schema, options.regex)
    plain = not options.do_sample and options.num_beams == 1 and reported == (None, None, None)
    return plain and not _edits(options, 0)


def _edits(options: GenerationOptions, prompt_length: int) -> tuple[Edit, ...]:
    made = (option.edit(options, prompt_length) for option in _applied(options) if option.edit)
    return tuple(edit for edit in made if edit is not None)


def _applied(options: GenerationOptions) -> Iterator[Option]:
    """Those that are not neutral, in the table's order."""
    for option in OPTIONS:
        if getattr(options, option.name) != option.neutral and (options.do_sample or not option.sampling):
            yield option
