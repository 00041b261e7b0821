"""Options become a strategy: how a prompt is continued, token by token.

Enters: checked options, a prompt's ids, a tokenizer. Leaves: a `Strategy`, with all that it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pumice.generation.answer_text import AnswerText
from pumice.generation.beam_search import BeamSearch
from pumice.generation.detokenizer import Tokenizer
from pumice.generation.grammar import Grammar, GrammarCompiler
from pumice.generation.independent import IndependentSequences
from pumice.generation.logits_processors import is_greedy, make_processor
from pumice.generation.options import GenerationOptions
from pumice.generation.prompt_lookup import MOST_DRAFTED, Drafter
from pumice.generation.sampling import make_rngs, make_sampler
from pumice.generation.sequence import GeneratedSequence, Rules
from pumice.generation.strategy import Strategy


class NamingTokenizer(Tokenizer, Protocol):
    """What strategies ask of a tokenizer; `PromptTokenizer` is one."""

    def token_text(self, token_id: int) -> str:
        """The text of one token."""
        ...


@dataclass(frozen=True, kw_only=True)
class StrategyMaker:
    """Makes strategies for one bundle.

    Args:
        tokenizer: the bundle's.
        grammars: compiles what constrains answers.
        feature_token_ids: of images and videos, never drafted, nor is a token that ends an answer.
        drafts_by_default: whether tokens are drafted where the caller says nothing about it.
    """

    tokenizer: NamingTokenizer
    grammars: GrammarCompiler
    feature_token_ids: tuple[int, ...]
    drafts_by_default: bool

    def __call__(self, prompt_ids: NDArray[np.int64], options: GenerationOptions) -> Strategy:
        """How a prompt, int64 [T], is continued.

        Raises:
            UsageError: a JSON schema or a regular expression that cannot be used.
        """
        processor = make_processor(options, len(prompt_ids))
        rngs = make_rngs(options)
        if options.num_beams > 1:
            return BeamSearch(
                prompt_ids=prompt_ids,
                options=options,
                max_new_tokens=options.max_new_tokens,
                eos_ids=options.eos_token_id,
                processor=processor,
                rng=rngs[0],
                tokenizer=self.tokenizer,
            )
        rules = Rules(
            processor=processor,
            sampler=make_sampler(options),
            eos_ids=frozenset(options.eos_token_id),
            max_new_tokens=options.max_new_tokens,
            logprobs=options.logprobs,
            token_text=self.tokenizer.token_text,
            is_greedy=is_greedy(options),
        )
        grammar = self.grammar(options)
        answers = [
            GeneratedSequence(
                prompt_ids,
                rules,
                rng=rng,
                text=AnswerText(self.tokenizer, options.stop_strings, prompt_ids),
                matcher=None if grammar is None else grammar.start(options.eos_token_id),
            )
            for rng in rngs
        ]
        return IndependentSequences(answers, self.drafter(options))

    def grammar(self, options: GenerationOptions) -> Grammar | None:
        """What constrains an answer; None where nothing does. Compiled once for equal options. Raises as a call."""
        if options.json_schema is None and options.regex is None:
            return None
        return self.grammars.compile(json_schema=options.json_schema, regex=options.regex)

    def drafter(self, options: GenerationOptions) -> Drafter | None:
        """What drafts tokens ahead; None where nothing does."""
        most = options.prompt_lookup_num_tokens
        if most == 0 or options.num_return_sequences > 1 or (most is None and not self.drafts_by_default):
            return None
        stop_ids = {*self.feature_token_ids, *options.eos_token_id}
        return Drafter(MOST_DRAFTED if most is None else most, stop_ids)
