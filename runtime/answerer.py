"""What questions, conversations and the engine have in common: a prepared prompt becomes a job.

Enters: prompts, pictures and options. Leaves: `Job` objects for a `Scheduler`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pumice.decoder import Decoder
from pumice.detokenizer import Detokenizer
from pumice.errors import ContextLengthError
from pumice.generation.answer import Answer, Rules
from pumice.generation.answers import Answers
from pumice.generation.beam_search import BeamSearch
from pumice.generation.options import GenerationOptions, resolve
from pumice.generation.processors import make_processor, takes_likeliest
from pumice.generation.prompt_lookup import MOST_DRAFTED, Drafter
from pumice.generation.sampling import make_rngs, make_sampler
from pumice.generation.strategy import Strategy
from pumice.generation.structured import Grammar, GrammarCompiler
from pumice.images import ImageInput
from pumice.job import Clock, Job
from pumice.keys import prompt_keys
from pumice.manifest import Manifest
from pumice.prefix_cache import PrefixCache
from pumice.prompt import Prompt, PromptBuilder
from pumice.tokens import PromptTokenizer
from pumice.vision import PictureEncoder, PromptFeatures, PromptPicture

_WORTH_GUESSING = 50_000_000
"""Bytes of a decoder below which its tokens are so quick that guessing them takes as long."""


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A loaded bundle's parts. `load_s` are the seconds that loading took."""

    manifest: Manifest
    decoder: Decoder
    tokenizer: PromptTokenizer
    builder: PromptBuilder
    encoder: PictureEncoder
    prefixes: PrefixCache
    grammars: GrammarCompiler
    load_s: float

    def options(self, arguments: Mapping[str, Any]) -> GenerationOptions:
        """Options by name, checked, with the bundle's defaults.

        Raises:
            UsageError: an unknown name, a value outside its interval, or values that contradict each other.
        """
        options = resolve(arguments, self.manifest)
        self._grammar(options)  # a schema that cannot be used is refused now
        return options

    def job(
        self,
        prompt: Prompt,
        images: Sequence[ImageInput | PromptPicture],
        options: GenerationOptions,
        *,
        started: float,
        raw: bool = False,
        context: int | None = None,
    ) -> Job:
        """A job for a prompt, at most `context` tokens long with its answer; `started` is when the call came.

        Raises:
            PromptError, ContextLengthError, ImageError: as `Model.generate`.
        """
        began = time.perf_counter()
        prepared = self.builder.prepare(prompt, images, raw=raw)
        ids = prepared.input_ids[0].tolist()
        limit = self._room(len(ids), options.max_new_tokens, context)
        features = PromptFeatures(prepared.images, self.encoder)
        return Job(
            ids,
            prompt_keys(ids, self.manifest.image_tokens.token_id, features.pictures),
            features,
            self._strategy(prepared.input_ids[0], dataclasses.replace(options, max_new_tokens=limit)),
            Clock(started=started, load_s=self.load_s, preprocess_s=time.perf_counter() - began),
            max_new_tokens=limit,
        )

    def _room(self, prompt_tokens: int, limit: int, context: int | None) -> int:
        """Tokens that an answer may have: the limit, or what the context leaves.

        Raises:
            ContextLengthError: the context leaves none.
        """
        whole = self.manifest.decoder.context_length
        context = min(whole, context or whole)
        if prompt_tokens >= context:
            whose = "the model's context" if context == whole else "a slot's context"
            raise ContextLengthError(
                f"the prompt has {prompt_tokens:,} tokens, and {whose} of {context:,} leaves no room "
                "for an answer: shorten it"
            )
        return min(limit, context - prompt_tokens)

    def _strategy(self, prompt_ids: NDArray[np.int64], options: GenerationOptions) -> Strategy:
        """How the prompt is continued."""
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
                decode=self.tokenizer.decode,
            )
        rules = Rules(
            processor=processor,
            sampler=make_sampler(options),
            eos_ids=frozenset(options.eos_token_id),
            stop_strings=options.stop_strings,
            max_new_tokens=options.max_new_tokens,
            logprobs=options.logprobs,
            token_text=self.tokenizer.token_text,
            takes_likeliest=takes_likeliest(options),
        )
        grammar = self._grammar(options)
        answers = [
            Answer(
                prompt_ids,
                rules,
                rng=rng,
                detokenizer=Detokenizer(self.tokenizer.decode, self.tokenizer.held_ids),
                matcher=None if grammar is None else grammar.start(options.eos_token_id),
            )
            for rng in rngs
        ]
        return Answers(answers, self._drafter(options))

    def _grammar(self, options: GenerationOptions) -> Grammar | None:
        if options.json_schema is None and options.regex is None:
            return None
        return self.grammars.compile(json_schema=options.json_schema, regex=options.regex)

    def _drafter(self, options: GenerationOptions) -> Drafter | None:
        """What guesses ahead. Without a word of the caller's it does where that pays and leaves the answer as it is."""
        most = options.prompt_lookup_num_tokens
        if most == 0 or options.num_return_sequences > 1:
            return None
        if most is None and not (self._is_exact() and self._decoder_bytes() >= _WORTH_GUESSING):
            return None
        stop_ids = {self.manifest.image_tokens.token_id, *options.eos_token_id}
        return Drafter(MOST_DRAFTED if most is None else most, stop_ids)

    def _is_exact(self) -> bool:
        """Whether a token's logits are the same within float32's rounding, whatever is computed with it.

        Where weights or activations are rounded to fewer bits, a last bit may tip one of them, and layers add to that
        (docs/equality.md).
        """
        precision, kv_dtype = self.manifest.precision, self.manifest.decoder.kv_dtype
        return precision.bits is None and precision.float_type in (None, "fp32") and kv_dtype == "float32"

    def _decoder_bytes(self) -> int:
        graph = self.manifest.graphs.decoder
        return sum(self.manifest.files[name].size for name in (graph.file, *graph.external_data))
