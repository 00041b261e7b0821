"""The table from a checkpoint's tensor names to the parameters of `EmbeddingMerge`, `Decoder` and `Prefill`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pumice.models.config import LlavaConfig, TextConfig
from pumice.models.weights import Weight, linear, matrix, plain, stacked

EMBEDDING_TABLE = "language_model.embed_tokens.weight"
TEXT_NORM = re.compile(
    r"^language_model\.(layers\.\d+\.(input|post_attention|attention|mlp)_layernorm|norm)\.weight$"
)
"""Names of the stream's norms' weights: of each layer, and the final norm's."""
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
    table |= _norm("norm", "language_model.norm", text)
    if config.rotated and config.tie_word_embeddings:
        width = text.hidden_size
        table |= linear("head_rotation", "head_rotation", width, width, bias=False)
    head = EMBEDDING_TABLE if config.tie_word_embeddings else "lm_head.weight"
    table["lm_head.weight"] = plain(head, text.vocab_size, text.hidden_size)
    return table


def prefill_weights(config: LlavaConfig) -> dict[str, Weight]:
    """Parameters of `Prefill`: the decoder's, without what only logits need."""
    last = f"layers.{config.text.num_hidden_layers - 1}."
    read = tuple(f"{last}{part}." for part in ("input_layernorm", *(f"self_attn.{p}" for p in _BEFORE_CACHE)))
    return {
        name: weight
        for name, weight in decoder_weights(config).items()
        if name.startswith(read if name.startswith(last) else "layers.")
    }


_BEFORE_CACHE = ("qkv", "q_norm", "k_norm")
"""Parts of attention that keys and values need."""


def _text_block(ours: str, theirs: str, text: TextConfig) -> dict[str, Weight]:
    """In the order in which a layer computes with them."""
    before, behind = text.norm_places != "after", text.norm_places in ("after", "around")
    size, inner = text.hidden_size, text.intermediate_size

    def norm(name: str, there: bool) -> dict[str, Weight]:
        return _norm(f"{ours}.{name}", f"{theirs}.{name}", text) if there else {}

    table = norm("input_layernorm", before)
    table |= _attention(f"{ours}.self_attn", f"{theirs}.self_attn", text)
    table |= norm("attention_layernorm", behind)
    table |= norm("post_attention_layernorm", before and text.norm_places != "shared")
    gate = {"gate_proj": (size, inner)} if text.gated else {}
    for part, (size_in, size_out) in (gate | {"up_proj": (size, inner), "down_proj": (inner, size)}).items():
        table |= linear(f"{ours}.mlp.{part}", f"{theirs}.mlp.{part}", size_in, size_out, text.mlp_bias)
    return table | norm("mlp_layernorm", behind)


def _attention(ours: str, theirs: str, text: TextConfig) -> dict[str, Weight]:
    size = text.hidden_size
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    projections = [f"{theirs}.{part}_proj" for part in "qkv"]
    widths = [queries, keys, keys]
    table = {f"{ours}.qkv.weight": matrix([f"{p}.weight" for p in projections], widths, size)}
    if text.qkv_bias:
        table[f"{ours}.qkv.bias"] = stacked([f"{p}.bias" for p in projections], widths)
    for part, width in (("q_norm", queries), ("k_norm", keys)) if text.qk_norm != "none" else ():
        normed = width if text.qk_norm == "width" else text.head_dim
        table[f"{ours}.{part}.weight"] = plain(f"{theirs}.{part}.weight", normed)
    return table | linear(f"{ours}.o_proj", f"{theirs}.o_proj", queries, size, text.o_bias)


def _norm(ours: str, theirs: str, text: TextConfig) -> dict[str, Weight]:
    there = {"weight": text.norm_weight, "bias": text.norm_bias}
    return {f"{ours}.{p}": plain(f"{theirs}.{p}", text.hidden_size) for p in there if there[p]}


_PART = re.compile(r"^(language_model\.(?:layers\.\d+\.)?)(.+)(\.(?:weight|bias))$")
_FUSED = {
    "qkv": dict.fromkeys((f"self_attn.{part}_proj" for part in "qkv"), "self_attn.qkv_proj"),
    "gate_up": dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), "mlp.gate_up_proj"),
}
"""Parts that some checkpoints store one behind the other, and what they call them together."""


def stored_name(text: TextConfig, name: str) -> str:
    """The checkpoint's canonical name for the tensor that this table calls `name`, as a Llama does."""
    found = _PART.match(name)
    if found is None:
        return name
    names = dict(text.renamed)
    for together in text.fused:
        names |= _FUSED[together]
    return f"{found[1]}{names.get(found[2], found[2])}{found[3]}"


def stored_shapes(text: TextConfig, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes by this table's names → shapes by the checkpoint's: what is stored in one has all rows."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        stored = stored_name(text, name)
        rows = found[stored][0] if stored in found else 0
        found[stored] = (rows + shape[0], *shape[1:])
    return found


def first_row(text: TextConfig, name: str) -> int:
    """Where the rows of the tensor `name` begin in the one that the checkpoint has."""
    found = _PART.match(name)
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    rows = {"self_attn.k_proj": queries, "self_attn.v_proj": queries + keys} if "qkv" in text.fused else {}
    rows |= {"mlp.up_proj": text.intermediate_size} if "gate_up" in text.fused else {}
    return 0 if found is None else rows.get(found[2], 0)
