"""Granite's multipliers, taken up by weights: the same model as a decoder of the Llama line.

    embedding_multiplier m   every row that enters the decoder is times m: the table, the projector's second matrix and
                             bias, LLaVA-NeXT's newline
    residual_multiplier r    what each branch adds to the stream is times r: output and down projections, and biases
    attention_multiplier     scores are times it instead of 1/√(head width): an attribute of attention, no weight

A tied table is times m as a head too, so that the final norm's weight is divided by m there. Granite by itself also
divides logits by `logits_scaling`; transformers' LLaVA classes have a head of their own, which does not: nor do we.

Enters: a config with `multipliers`, and a reader of stored rows. Leaves: the config without them, and a reader whose
rows have taken them up. Formulas: transformers' `modeling_granite`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor

from pumice.models.config import LlavaConfig, Multipliers
from pumice.models.text_weights import EMBEDDING_TABLE
from pumice.models.weights import Read

_ENTERS = re.compile(
    r"^multi_modal_projector\.linear_2\.|^image_newline$|^" + re.escape(EMBEDDING_TABLE) + "$"
)
_ADDS = re.compile(r"^language_model\.layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)\.(weight|bias)$")
_FINAL_NORM = "language_model.norm.weight"


def fold_multipliers(config: LlavaConfig, read: Read) -> tuple[LlavaConfig, Read]:
    """The config and a reader of rows, in float32 where they change; both as they came where nothing does."""
    found = config.text.multipliers
    if found == Multipliers():
        return config, read

    def read_folded(name: str, start: int, stop: int) -> Tensor:
        rows = read(name, start, stop)
        if _ENTERS.match(name):
            return rows.float() * found.embedding
        if _ADDS.match(name):
            return rows.float() * found.residual
        if name == _FINAL_NORM and config.tie_word_embeddings:
            return rows.float() / found.embedding
        return rows

    return replace(config, text=replace(config.text, multipliers=Multipliers())), read_folded
