"""Granite's multipliers and Gemma's, taken up by weights: the same model as a decoder of the Llama line.

    embedding_multiplier m   every row that enters the decoder is times m: the table, the projector's second matrix and
                             bias, LLaVA-NeXT's newline
    residual_multiplier r    what each branch adds to the stream is times r: output and down projections, and biases
    Gemma's √width           rows of the table are times it, and nothing else that enters: see below
    attention_multiplier     scores are times it instead of 1/√(head width): an attribute of attention, no weight

A tied table is times m as a head too, so that the final norm's weight is divided by m there. Granite by itself also
divides logits by `logits_scaling`; transformers' LLaVA classes have a head of their own, which does not: nor do we.
Gemma's own model multiplies words where it looks them up. A LLaVA puts images' rows behind that, and they are not
multiplied; before transformers 5 they were.

Enters: a config with `multipliers`, and a reader of stored rows. Leaves: the config without them, and a reader whose
rows have taken them up. Formulas: transformers' `modeling_granite`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace

from torch import Tensor

from pumice.models.config import LlavaConfig, Multipliers
from pumice.models.text_weights import EMBEDDING_TABLE
from pumice.models.weights import Read

_ENTERS = re.compile(r"^multi_modal_projector\.linear_2\.|^image_newline$")
_ADDS = re.compile(r"^language_model\.layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)\.(weight|bias)$")
_FINAL_NORM = "language_model.norm.weight"


def warn_of_words_alone(config: LlavaConfig) -> None:
    """Say what a LLaVA on a Gemma computes: it may not be what it was trained with."""
    factor = config.text.multipliers.table
    if factor != 1:
        logging.getLogger("pumice").warning(
            "transformers 5 multiplies words by %.4g (the square root of the text model's width) and images' rows by "
            "nothing, and so does this bundle; earlier versions multiplied both: a checkpoint that was trained with "
            "them answers otherwise now",
            factor,
        )


def fold_multipliers(config: LlavaConfig, read: Read) -> tuple[LlavaConfig, Read]:
    """The config and a reader of rows, in float32 where they change; both as they came where nothing does."""
    found = config.text.multipliers
    if found == Multipliers():
        return config, read
    table = found.embedding * found.table

    def read_folded(name: str, start: int, stop: int) -> Tensor:
        rows = read(name, start, stop)
        if name == EMBEDDING_TABLE:
            return rows.float() * table
        if _ENTERS.match(name):
            return rows.float() * found.embedding
        if _ADDS.match(name):
            return rows.float() * found.residual
        if name == _FINAL_NORM and config.tie_word_embeddings:
            return rows.float() / table
        return rows

    return replace(config, text=replace(config.text, multipliers=Multipliers())), read_folded
