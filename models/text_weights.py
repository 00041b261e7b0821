"""The table from a checkpoint's tensor names to the parameters of `EmbeddingMerge`, `Decoder` and `Prefill`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pumice.models.config import LlavaConfig, TextConfig
from pumice.models.weights import Weight, linear, matrix, plain, stacked

EMBEDDING_TABLE = "language_model.embed_tokens.weight"
TEXT_NORM = re.compile(r"^language_model\.(layers\.\d+\.(input|post_attention)_layernorm|norm)\.weight$")
"""Names of the norms' weights: two a layer, and the final norm's."""
HEAD_ROTATION = "head_rotation.weight"
"""No checkpoint has it: `pumice.export.weights.rotation` makes it."""


def embedding_weights(config: LlavaConfig) -> dict[str, Weight]:
    """Parameters of `EmbeddingMerge`."""
    return {"weight": plain(EMBEDDING_TABLE, config.text.vocab_size, config.text.hidden_size)}


def decoder_weights(config: LlavaConfig) -> dict[str, Weight]:
    """Parameters of `Decoder`, without its rotary caches, which are computed."""
    text = config.text
    table: dict[str, Weight] = {}
    for index in range(text.num_hidden_layers):
        table |= _text_block(f"layers.{index}", f"language_model.layers.{index}", text)
    table["norm.weight"] = plain("language_model.norm.weight", text.hidden_size)
    if config.rotated and config.tie_word_embeddings:
        width = text.hidden_size
        table |= linear("head_rotation", "head_rotation", width, width, bias=False)
    head = EMBEDDING_TABLE if config.tie_word_embeddings else "lm_head.weight"
    table["lm_head.weight"] = plain(head, text.vocab_size, text.hidden_size)
    return table


def prefill_weights(config: LlavaConfig) -> dict[str, Weight]:
    """Parameters of `Prefill`: the decoder's, without what only logits need."""
    last = f"layers.{config.text.num_hidden_layers - 1}"
    unread = (f"{last}.self_attn.o_proj.", f"{last}.post_attention_layernorm.", f"{last}.mlp.")
    return {
        name: weight
        for name, weight in decoder_weights(config).items()
        if name.startswith("layers.") and not name.startswith(unread)
    }


def _text_block(ours: str, theirs: str, text: TextConfig) -> dict[str, Weight]:
    size, inner = text.hidden_size, text.intermediate_size
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    projections = [f"{theirs}.self_attn.{part}_proj" for part in "qkv"]
    widths = [queries, keys, keys]
    table = {
        f"{ours}.input_layernorm.weight": plain(f"{theirs}.input_layernorm.weight", size),
        f"{ours}.self_attn.qkv.weight": matrix([f"{p}.weight" for p in projections], widths, size),
    }
    if text.qkv_bias:
        table[f"{ours}.self_attn.qkv.bias"] = stacked([f"{p}.bias" for p in projections], widths)
    o_proj = f"{theirs}.self_attn.o_proj"
    table |= linear(f"{ours}.self_attn.o_proj", o_proj, queries, size, text.o_bias)
    norm = f"{theirs}.post_attention_layernorm.weight"
    table[f"{ours}.post_attention_layernorm.weight"] = plain(norm, size)
    for part, (size_in, size_out) in _mlp_shapes(size, inner):
        table |= linear(f"{ours}.mlp.{part}", f"{theirs}.mlp.{part}", size_in, size_out, text.mlp_bias)
    return table


def _mlp_shapes(size: int, inner: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield from (("gate_proj", (size, inner)), ("up_proj", (size, inner)), ("down_proj", (inner, size)))
