"""What questions, conversations and the engine have in common: a prepared prompt becomes a request.

Enters: prompts, images and options. Leaves: `Request` objects, and the `Scheduler` that answers them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pumice.bundle.plan import default_slot_context
from pumice.decoder.decoder import Decoder
from pumice.decoder.kv_cache import KVCache
from pumice.decoder.prefix_cache import PrefixCache
from pumice.decoder.prefix_keys import prompt_keys
from pumice.errors import ContextLengthError
from pumice.generation.make import StrategyMaker
from pumice.generation.options import GenerationOptions, resolve
from pumice.manifest import Manifest
from pumice.prompt.builder import Given, Prompt, PromptBuilder
from pumice.prompt.tokenizer import PromptTokenizer
from pumice.scheduler.request import Clock, Request
from pumice.scheduler.scheduler import Scheduler
from pumice.vision.encoder import ImageEncoder
from pumice.vision.features import PromptFeatures


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A loaded bundle's parts. `load_s` are the seconds that loading took; `context` is None for the model's."""

    manifest: Manifest
    decoder: Decoder
    tokenizer: PromptTokenizer
    builder: PromptBuilder
    encoder: ImageEncoder
    prefixes: PrefixCache
    strategies: StrategyMaker
    load_s: float
    context: int | None = None

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.context or self.manifest.decoder.context_length

    def options(self, arguments: Mapping[str, Any]) -> GenerationOptions:
        """Options by name, checked, with the bundle's defaults.

        Raises:
            UsageError: an unknown name, a value outside its interval, or values that contradict each other.
        """
        options = resolve(arguments, self.manifest)
        self.strategies.grammar(options)  # a schema that cannot be used is refused now
        return options

    def request(
        self,
        prompt: Prompt,
        images: Sequence[Given],
        options: GenerationOptions,
        *,
        started: float,
        raw: bool = False,
        context: int | None = None,
    ) -> Request:
        """A request for a prompt, at most `context` tokens long with its answer; `started` is when the call came.

        Raises:
            PromptError, ContextLengthError, ImageError: as `Model.generate`.
        """
        began = time.perf_counter()
        prepared = self.builder.prepare(
            prompt,
            images,
            raw=raw,
            add_generation_prompt=options.add_generation_prompt,
            continue_final_message=options.continue_final_message,
        )
        ids = prepared.input_ids[0].tolist()
        limit = self.room(len(ids), options.max_new_tokens, context)
        features = PromptFeatures(prepared.images, self.encoder)
        return Request(
            ids,
            prompt_keys(ids, self.manifest.feature_token_ids, features.images),
            features,
            self.strategies(prepared.input_ids[0], dataclasses.replace(options, max_new_tokens=limit)),
            Clock(started=started, load_s=self.load_s, preprocess_s=time.perf_counter() - began),
            max_new_tokens=limit,
        )

    def slot_context(self, slots: int) -> int:
        """Tokens of a slot by default: the model's context; on the CPU, as many as fit into half of the memory left."""
        if self.decoder.sessions.device == "cpu":
            return min(self.context_length, default_slot_context(self.manifest, slots))
        return self.context_length

    def scheduler(self, cache: KVCache) -> Scheduler:
        """What answers requests in the slots of a cache."""
        return Scheduler(self.decoder, cache, self.prefixes)

    def room(self, prompt_tokens: int, limit: int, context: int | None) -> int:
        """Tokens that an answer may have: the limit, or what the context leaves.

        Raises:
            ContextLengthError: the context leaves none.
        """
        whole = self.context_length
        context = min(whole, context or whole)
        if prompt_tokens >= context:
            model_s = "the model's context" if self.context is None else "the limited context"
            whose = model_s if context == whole else "a slot's context"
            raise ContextLengthError(
                f"the prompt has {prompt_tokens:,} tokens, and {whose} of {context:,} leaves no room "
                "for an answer: shorten it"
            )
        return min(limit, context - prompt_tokens)
