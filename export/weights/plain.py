"""A checkpoint's text model as the decoder has it: all that its family stores otherwise than a Llama, undone.

Enters: a config and a reader of stored rows. Leaves: a config whose fields ask for nothing more of the weights, and a
reader of rows as they are multiplied with. Every wrapper behind this one sees what a Llama would have.
"""

from __future__ import annotations

from pumice.export.weights.head_order import order_heads
from pumice.export.weights.multipliers import fold_multipliers
from pumice.export.weights.norm_offset import add_norm_offset
from pumice.export.weights.stored_names import read_by_llama_names
from pumice.models.config import LlavaConfig
from pumice.models.weights import Read


def make_plain(config: LlavaConfig, read: Read) -> tuple[LlavaConfig, Read]:
    """The config and the reader; both as they came where a family stores what a Llama stores."""
    for change in (read_by_llama_names, add_norm_offset, fold_multipliers, order_heads):
        config, read = change(config, read)
    return config, read
