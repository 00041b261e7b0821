"""Norm weights that a text model stores as a difference, as the sum that its norms multiply with.

A norm of Gemma's kind computes x·(1 + w) and stores w. Enters: a config with `norm_offset`, and a reader of stored
rows. Leaves: the config without it, and a reader that gives 1 + w, so that nothing after knows of the difference.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from pumice.models.config import LlavaConfig
from pumice.models.text_weights import TEXT_NORM
from pumice.models.weights import Read


def add_norm_offset(config: LlavaConfig, read: Read) -> tuple[LlavaConfig, Read]:
    """The config and a reader of whole norm weights, in float32; both as they came where nothing is to be added."""
    offset = config.text.norm_offset
    if not offset:
        return config, read

    def read_whole(name: str, start: int, stop: int) -> Tensor:
        rows = read(name, start, stop)
        return rows.float() + offset if TEXT_NORM.match(name) else rows

    return replace(config, text=replace(config.text, norm_offset=0.0)), read_whole
