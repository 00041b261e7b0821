"""Whether a model's head really is its embedding table.

Enters: a checkpoint, and what its config says. Leaves: the config as transformers acts on it: a checkpoint that has
both tensors, with different values, is not tied whatever its config says.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from pumice.export.checkpoint.folder import Checkpoint
from pumice.models.config import LlavaConfig
from pumice.models.text_weights import EMBEDDING_TABLE

HEAD = "lm_head.weight"
ROWS = 1 << 13
"""Compared at a time."""


def as_stored(config: LlavaConfig, checkpoint: Checkpoint) -> LlavaConfig:
    """The config, untied where the checkpoint has a head of its own. Raises CheckpointError as reading does."""
    names = checkpoint.names
    if not config.tie_word_embeddings or not {HEAD, EMBEDDING_TABLE} <= names.keys():
        return config
    equal = _equal(checkpoint, names[HEAD], names[EMBEDDING_TABLE])
    return config if equal else replace(config, tie_word_embeddings=False)


def _equal(checkpoint: Checkpoint, first: str, second: str) -> bool:
    shape = checkpoint.tensors[first].shape
    if shape != checkpoint.tensors[second].shape or not shape:
        return False
    for start in range(0, shape[0], ROWS):
        parts = [checkpoint.read_rows(name, start, min(start + ROWS, shape[0])) for name in (first, second)]
        if not torch.equal(parts[0].to(torch.float32), parts[1].to(torch.float32)):
            return False
    return True
