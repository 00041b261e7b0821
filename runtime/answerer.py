"""What a question and a conversation have in common: limits, and an answer's stream begun.

Enters: token ids, features and a cache. Leaves: a `TextStream`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pumice.cache import KVCache
from pumice.decoder import Decoder
from pumice.detokenizer import Detokenizer
from pumice.errors import ContextLengthError, UsageError
from pumice.generation import Request
from pumice.manifest import Manifest
from pumice.prompt import PromptBuilder
from pumice.result import Generation
from pumice.sampling import greedy
from pumice.stream import TextStream
from pumice.tokens import PromptTokenizer

DEFAULT_MAX_NEW_TOKENS = 256
"""Where neither the caller nor the checkpoint's generation defaults say."""


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A loaded bundle's parts. `load_s` are the seconds that loading took."""

    manifest: Manifest
    decoder: Decoder
    tokenizer: PromptTokenizer
    builder: PromptBuilder
    load_s: float

    def checked_limit(self, max_new_tokens: int | None) -> int:
        """`max_new_tokens`, or its default.

        Raises:
            UsageError: outside 1 … context length.
        """
        context = self.manifest.decoder.context_length
        if max_new_tokens is None:
            return min(self.manifest.generation.max_new_tokens or DEFAULT_MAX_NEW_TOKENS, context)
        whole = isinstance(max_new_tokens, (int, np.integer)) and not isinstance(max_new_tokens, bool)
        if not whole or not 1 <= max_new_tokens <= context:
            raise UsageError(
                f"max_new_tokens is {max_new_tokens!r}, expected 1 to {context} (the model's context)"
            )
        return int(max_new_tokens)

    def room(self, prompt_tokens: int, limit: int) -> int:
        """Tokens that an answer may have: the limit, or what the context leaves.

        Raises:
            ContextLengthError: the context leaves none.
        """
        context = self.manifest.decoder.context_length
        if prompt_tokens >= context:
            raise ContextLengthError(
                f"the prompt has {prompt_tokens:,} tokens, and the model's context of {context:,} leaves no room "
                "for an answer: shorten it"
            )
        return min(limit, context - prompt_tokens)

    def stream(
        self,
        ids: list[int],
        features: Callable[[], NDArray[np.float32]],
        cache: KVCache,
        *,
        max_new_tokens: int,
        started: float,
        on_end: Callable[[Generation], None] | None = None,
    ) -> TextStream:
        """Begin an answer to a prompt, of which `cache` may hold the beginning; `started` is when the call came."""
        request = Request(
            ids=ids,
            features=features,
            image_token_id=self.manifest.image_tokens.token_id,
            cache=cache,
            sampler=greedy,
            eos_ids=frozenset(self.manifest.tokens.eos_ids),
            max_new_tokens=max_new_tokens,
        )
        detokenizer = Detokenizer(self.tokenizer.decode, self.tokenizer.held_ids)
        return TextStream(
            self.decoder, request, detokenizer, started=started, load_s=self.load_s, on_end=on_end
        )
