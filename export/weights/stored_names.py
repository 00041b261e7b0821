"""Tensors of a text model by the names that a Llama has for them, whatever the checkpoint calls them.

A tensor may have another name, or be stored in one with others:

    self_attn.qkv_proj   [queries; keys; values]       mlp.gate_up_proj   [gate; up]

Enters: a config with `renamed` or `fused`, and a reader of stored rows. Leaves: the config without them, and a reader
that takes a Llama's names, so that nothing after knows of others.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from pumice.models.config import LlavaConfig
from pumice.models.text_weights import first_row, stored_name
from pumice.models.weights import Read


def read_by_llama_names(config: LlavaConfig, read: Read) -> tuple[LlavaConfig, Read]:
    """The config and a reader by a Llama's names; both as they came where the checkpoint has no others."""
    text = config.text
    if not text.renamed and not text.fused:
        return config, read

    def read_named(name: str, start: int, stop: int) -> Tensor:
        first = first_row(text, name)
        return read(stored_name(text, name), first + start, first + stop)

    return replace(config, text=replace(text, renamed=(), fused=())), read_named
