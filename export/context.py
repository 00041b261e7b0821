"""How long a sequence a bundle takes: the checkpoint's own context, or a shorter one.

The rotary embedding's cosines and sines are stored for every position of the context, 1 KB each at a head width of 128.
A context of a million tokens, as Pixtral-12B's config has it, would be a gigabyte of them.
"""

from __future__ import annotations

from dataclasses import replace

from pumice.errors import UsageError
from pumice.models.config import LlavaConfig

LONGEST = 131_072
"""Tokens, unless a longer context is asked for."""


def limit_context(config: LlavaConfig, context_length: int | None) -> LlavaConfig:
    """The config with a context of `context_length` tokens, by default the checkpoint's up to `LONGEST`.

    Raises:
        UsageError: a context that the checkpoint does not have.
    """
    own = config.text.max_position_embeddings
    if context_length is not None and not 1 <= context_length <= own:
        raise UsageError(f"context length is {context_length}, expected 1 to {own} (the checkpoint's)")
    context = min(own, LONGEST) if context_length is None else context_length
    return replace(config, text=replace(config.text, max_position_embeddings=context))
